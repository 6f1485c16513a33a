"""From annotations to documents: how many, which pictures, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.hallucination.problems import Problems
from attnpatch.evaluation.hallucination.questions import Question
from attnpatch.evaluation.tasks.base import Documents
from attnpatch.evaluation.vision.data import Data
from attnpatch.evaluation.vision.documents import Picture, PictureDocument
from attnpatch.evaluation.vision.prompts import Prompter


@dataclass(frozen=True)
class Asked:
    """One prompt to be: image is the name of its picture."""

    id: str
    image: str
    text: str
    references: tuple[str, ...]
    group: str = ""
    extra: dict[str, Any] | None = None


def of_questions(questions: Iterable[Question], suffix: str) -> list[Asked]:
    """Yes/no questions, each with `suffix` behind it."""
    return [Asked(q.id, q.image, q.text + suffix, (q.label,), q.group) for q in questions]


def limited(asked: Sequence[Question], limit: int, whole: int = 1) -> list[Question]:
    """The first `limit` questions of every split, subtask or type.

    whole: questions that belong together stand next to each other, so many; they stay together, rounding down.
    """
    room = max(whole, limit - limit % whole)
    taken: dict[str, int] = {}
    found = []
    for one in asked:
        taken[one.group] = taken.get(one.group, 0) + 1
        if taken[one.group] <= room:
            found.append(one)
    return found


def from_files(
    asked: Iterable[Asked], benchmark: str, data: Data, prompter: Prompter, problems: Problems, details: dict[str, Any]
) -> Documents:
    """Documents with pictures from the user's folder.

    Raises:
        SkipCell: there are no pictures at all.
        UsageError: with `problems` set to stop, a picture that is not there or cannot be decoded.
    """
    pictures: dict[Any, Picture | None] = {}

    def find(one: Asked) -> Picture | None:
        path = data.picture(benchmark, one.image, one.group)
        key = path or one.image
        if key not in pictures:
            pictures[key] = _picture(path, f"{benchmark}, image {one.image!r}", data, problems)
        return pictures[key]

    found = documents(asked, find, prompter, details)
    found.details["left_out"] = problems.to_dict()
    return found


def _picture(path: Path | None, where: str, data: Data, problems: Problems) -> Picture | None:
    if path is None:
        problems.add(where, f"no such file under {str(data.pictures)!r}, nor in its usual folders inside")
        return None
    try:
        return Picture.of_file(path.relative_to(data.pictures).as_posix(), path)
    except OSError as error:
        problems.add(where, f"{path} cannot be read: {error.strerror or error}")
    except RuntimeError as error:
        problems.add(where, str(error))
    return None


def documents(
    asked: Iterable[Asked], picture: Callable[[Asked], Picture | None], prompter: Prompter, details: dict[str, Any]
) -> Documents:
    """Documents of all prompts whose picture is there. Raises SkipCell if none is left."""
    found = []
    for one in asked:
        shown = picture(one)
        if shown is not None:
            text = prompter.text(one.text)
            document = PictureDocument(
                one.id, tuple(prompter.ids(text)), (), references=one.references, text=text, picture=shown,
                group=one.group, extra=one.extra or {},
            )  # fmt: skip
            found.append(document)
    if not found:
        raise SkipCell("no document is left", "--on-bad stop names the first entry that cannot be used")
    return Documents(found, {"prompt": prompter.mode, **details})
