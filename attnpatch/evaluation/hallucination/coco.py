"""What is in a picture of COCO: the objects that were marked in it, and those that people named when describing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination.objects import Objects
from attnpatch.evaluation.hallucination.problems import Problems
from attnpatch.evaluation.hallucination.reading import read_json

MARKED, TOLD = "instances_*.json", "captions_*.json"


@dataclass(eq=False)
class Picture:
    """One picture.

    objects: the table that its captions are read with; seen: names of the objects that were marked in it; captions:
    how people described it; marked: some file of instances knows it.
    """

    id: str
    file_name: str
    objects: Objects = field(repr=False)
    seen: set[str] = field(default_factory=set)
    captions: list[str] = field(default_factory=list)
    marked: bool = False

    @cached_property
    def truth(self) -> set[str]:
        """Names of all objects that are there. Only now are the captions read: most pictures are never asked for."""
        return self.seen.union(*(self.objects.mentions(text) for text in self.captions))


def read_coco(folder: Path, objects: Objects, problems: Problems) -> dict[str, Picture]:
    """All pictures by their id that have both kinds of annotation, from all instances_*.json and captions_*.json.

    Raises:
        UsageError: a file cannot be read, or one kind is missing; with `problems` set to stop, an entry that cannot
            be used, an annotation of an unknown picture or category, or a picture with one kind only.
    """
    pictures: dict[str, Picture] = {}
    for path in _files(folder, MARKED):
        found = _read(path, ("images", "categories", "annotations"))
        for picture in _images(path, found, pictures, objects, problems):
            picture.marked = True
        names = _categories(path, found, objects, problems)
        for place, row, picture in _annotations(path, found, pictures, "category_id", problems):
            if str(row["category_id"]) in names:
                picture.seen.add(names[str(row["category_id"])])
            else:
                problems.add(place, f"category {row['category_id']!r} is not among the file's categories")
    for path in _files(folder, TOLD):
        found = _read(path, ("images", "annotations"))
        _images(path, found, pictures, objects, problems)
        for place, row, picture in _annotations(path, found, pictures, "caption", problems):
            if isinstance(row["caption"], str):
                picture.captions.append(row["caption"])
            else:
                problems.add(place, f"its caption is {row['caption']!r}, not text")
    for name, picture in list(pictures.items()):
        if not (picture.marked and picture.captions):
            lacking = "captions" if picture.marked else "instances"
            problems.add(f"{folder}, image {name}", f"{picture.file_name} has no {lacking}")
            del pictures[name]
    return pictures


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise UsageError(
            f"COCO folder {str(folder)!r} holds no {pattern}. Unpack annotations_trainval2014.zip of COCO there."
        )
    return files


def _read(path: Path, parts: tuple[str, ...]) -> dict[str, list[Any]]:
    found = read_json(path, "COCO file")
    if not isinstance(found, dict) or not all(isinstance(found.get(part), list) for part in parts):
        raise UsageError(f"COCO file {str(path)!r} lacks {', '.join(parts)}. Take the files of COCO's 2014 release.")
    return found


def _entries(
    path: Path, found: dict[str, list[Any]], part: str, needed: tuple[str, ...], problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of one part of a file, as far as a row is an object with all that is needed."""
    for number, row in enumerate(found[part], 1):
        place = f"{path}, entry {number} of {part}"
        if not isinstance(row, dict):
            problems.add(place, f"a {type(row).__name__} where an object with {', '.join(needed)} should stand")
        elif problems.complete(place, row, needed, blank=True):
            yield place, row


def _images(
    path: Path, found: dict[str, list[Any]], pictures: dict[str, Picture], objects: Objects, problems: Problems
) -> list[Picture]:
    """The pictures that a file names; those that no file named before are added to `pictures`."""
    own = []
    for _, row in _entries(path, found, "images", ("id", "file_name"), problems):
        name = str(row["id"])
        own.append(pictures.setdefault(name, Picture(name, str(row["file_name"]), objects)))
    return own


def _categories(path: Path, found: dict[str, list[Any]], objects: Objects, problems: Problems) -> dict[str, str]:
    """Names of objects by the id of their category."""
    rows = [row for _, row in _entries(path, found, "categories", ("id", "name"), problems)]
    names = {str(row["id"]): objects.name(str(row["name"])) for row in rows}
    unknown = [row["name"] for row in rows if names[str(row["id"])] is None]
    if unknown:
        raise UsageError(f"{path}: the table of objects has no line for {', '.join(map(repr, unknown))}.")
    return names


def _annotations(
    path: Path, found: dict[str, list[Any]], pictures: dict[str, Picture], needed: str, problems: Problems
) -> Iterator[tuple[str, dict[str, Any], Picture]]:
    """(place, row, its picture) of the annotations that hold what is needed."""
    for place, row in _entries(path, found, "annotations", ("image_id", needed), problems):
        picture = pictures.get(str(row["image_id"]))
        if picture is None:
            problems.add(place, f"image {row['image_id']!r} is not among the file's images")
        else:
            yield place, row, picture
