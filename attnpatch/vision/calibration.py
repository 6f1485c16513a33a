"""Calibration: a method's options for one model, found on a handful of images and kept as a profile."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attnpatch.methods.vision.base import VisionMethod
from attnpatch.methods.vision.profile import Profile
from attnpatch.patching.apply import patches
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.method import build_config, method_class, methods
from attnpatch.patching.sites import text_base, unwrap
from attnpatch.vision.prompts import own_processor, prompt_inputs

QUESTION = "Please describe this image in detail."
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def calibrate(
    model: Any,
    processor: Any,
    method: str,
    images: Sequence[Any],
    questions: str | Sequence[str] | None = None,
    *,
    command: str | None = None,
) -> Profile:
    """Find the options of `method` for `model`; `profile.write(file)` keeps them for `apply(..., profile=file)`.

    Args:
        model, processor: as `load_vision_model` returns them. The model must not be patched, and is left as it was.
        method: "var", "vhr", "gift" or another one that can be calibrated.
        images: PIL images or files; a handful is enough.
        questions: asked about the images in turn; default: "Please describe this image in detail."
        command: how to make the profile again, to be written into it.

    Raises AttnPatchError: a method that has nothing to calibrate, no image, an image that cannot be read, a patched
    model, the processor of another model, or a model on which nothing was found.
    """
    cls = calibrated_class(method)
    asked = [questions] if isinstance(questions, str) else list(questions or [QUESTION])
    if not len(images):
        raise AttnPatchError("calibration needs images and got none; give a handful.")
    present = [one.name for patch in patches(model) for one in patch.methods]
    if present:
        raise AttnPatchError(
            f"the model is patched with {', '.join(present)}; calibrate it as it is: patch.remove() first."
        )
    opened = [opened_image(image) for image in images]
    # A method that reads the words of a question takes what they were written with.
    reads = "tokenizer" in inspect.signature(cls.calibrate).parameters
    with own_processor(model):
        found = cls.calibrate(
            unwrap(model), _batches(model, processor, opened, asked), **({"tokenizer": processor} if reads else {})
        )
    profile = Profile.of(cls.name, text_base(unwrap(model)).config, found, command)
    build_config(cls, profile.options)  # what was measured must be something the method takes
    return profile


def calibrated_class(method: str) -> type[VisionMethod]:
    """The class behind `method`. Raises AttnPatchError unless it can be calibrated."""
    able = sorted(name for name, cls in methods().items() if _is_able(cls))
    cls = method_class(method)
    if not _is_able(cls):
        raise AttnPatchError(f"method {method!r} has nothing to calibrate. Allowed: {', '.join(able)}.")
    return cls


def _is_able(cls: type) -> bool:
    return issubclass(cls, VisionMethod) and cls.calibrate.__func__ is not VisionMethod.calibrate.__func__


def image_files(folder: str | Path, limit: int) -> list[Path]:
    """The first `limit` images of a folder, by name, or the one image file.

    Raises AttnPatchError where there is none.
    """
    place = Path(folder).expanduser()
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise AttnPatchError(f"--images {str(folder)!r} does not exist; name a folder with images ({_endings()}).")
    files = sorted(file for file in place.iterdir() if file.suffix.lower() in ENDINGS)
    if not files:
        raise AttnPatchError(f"--images {str(folder)!r} holds no image; files that end in {_endings()} are read.")
    return files[:limit]


def _endings() -> str:
    return ", ".join(ENDINGS)


def opened_image(image: Any) -> Any:
    """`image`, opened as RGB if it is a file. Raises AttnPatchError if it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    if not isinstance(image, (str, Path)):
        return image
    try:
        with Image.open(image) as found:
            return found.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise AttnPatchError(
            f"image {str(image)!r} cannot be read: {error}. Take it out, or save it again."
        ) from error


def _batches(model: Any, processor: Any, images: list[Any], questions: list[str]) -> Iterator[dict[str, Any]]:
    """Inputs of one prompt after the other; each question in turn."""
    for number, image in enumerate(images):
        yield prompt_inputs(model, processor, image, questions[number % len(questions)])
