"""Documents with a picture: a file, or one that a generator draws."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.tasks.base import Document

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """name: what resampling and messages call it; digest: sha256 of its content; open: `() -> PIL image`, RGB."""

    name: str
    digest: str
    open: Callable[[], Image] = field(compare=False)

    @classmethod
    def of_file(cls, name: str, path: Path) -> Picture:
        """A picture file, decoded once to know that it can be; its pixels are not kept.

        Raises:
            OSError: it cannot be read.
            RuntimeError: it cannot be decoded.
        """
        content = path.read_bytes()
        _decoded(path, content)
        return cls(name, hashlib.sha256(content).hexdigest(), lambda: _decoded(path, path.read_bytes()))


def _decoded(path: Path, content: bytes) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(BytesIO(content)).convert("RGB")
    except UnidentifiedImageError as error:
        raise _undecodable(path, "it is no image, or of a kind that Pillow does not know") from error
    except Exception as error:  # broken bytes lead Pillow's readers into errors of any kind
        raise _undecodable(path, str(error).rstrip(".") or type(error).__name__) from error


def _undecodable(path: Path, reason: str) -> RuntimeError:
    return RuntimeError(f"image {str(path)!r} cannot be decoded: {reason}; download it again")


@dataclass(frozen=True)
class PictureDocument(Document):
    """A prompt about one picture; `input_ids` are its tokens before the picture takes its place among them.

    text: the whole prompt, the token for the picture in it. group: the split, subtask or type it is scored with.
    extra: what its scorer needs besides `references`, as JSON.
    """

    text: str = ""
    picture: Picture | None = None
    group: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def scored(self) -> list[Any]:
        return [*super().scored, self.text, self.picture.digest, self.group, self.extra]

    @property
    def digest(self) -> str:
        """Short hash of the prompt and its picture."""
        return hashlib.sha256(json.dumps([self.text, self.picture.digest]).encode()).hexdigest()[:16]
