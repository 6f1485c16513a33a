"""One picture, as users give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnpatch.patching.errors import AttnPatchError
from attnpatch.vision.calibration import opened_image


def opened(image: Any) -> Any:
    """A PIL image in RGB from a PIL image or a file.

    Raises:
        AttnPatchError: a file that is not there or is no image, or several pictures.
        TypeError: anything else.
    """
    from PIL import Image

    if isinstance(image, (list, tuple)):
        raise AttnPatchError(f"one picture is looked at, got a {type(image).__name__} of {len(image)}; give one.")
    if not isinstance(image, (str, Path, Image.Image)):
        raise TypeError(f"image must be a PIL image or a file, got {type(image).__name__}.")
    if isinstance(image, (str, Path)) and not Path(image).expanduser().is_file():
        raise AttnPatchError(f"image {str(image)!r} does not exist; give an image file.")
    found = opened_image(Path(image).expanduser() if isinstance(image, (str, Path)) else image)
    return found if found.mode == "RGB" else found.convert("RGB")
