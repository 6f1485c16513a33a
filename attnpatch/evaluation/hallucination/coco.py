"""What is in a picture of COCO: the objects that were marked in it, and those that people named when describing it."""

from __future__ import annotations

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
        UsageError: a file cannot be read, or one kind is missing; with `problems` set to stop, an annotation of an
            unknown picture or category, or a picture with one kind only.
    """
    pictures: dict[str, Picture] = {}
    for path in _files(folder, MARKED):
        found = _read(path, pictures, objects, ("images", "categories", "annotations"))
        names = {row["id"]: objects.name(row["name"]) for row in found["categories"]}
        unknown = [row["name"] for row in found["categories"] if names[row["id"]] is None]
        if unknown:
            raise UsageError(f"{path}: the table of objects has no line for {', '.join(map(repr, unknown))}.")
        for picture in _own(found, pictures):
            picture.marked = True
        for place, row, picture in _annotations(path, found, pictures, problems):
            if row.get("category_id") in names:
                picture.seen.add(names[row["category_id"]])
            else:
                problems.add(place, f"category {row.get('category_id')!r} is not among the file's categories")
    for path in _files(folder, TOLD):
        found = _read(path, pictures, objects, ("images", "annotations"))
        for place, row, picture in _annotations(path, found, pictures, problems):
            if isinstance(row.get("caption"), str):
                picture.captions.append(row["caption"])
            else:
                problems.add(place, "it has no caption")
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


def _read(path: Path, pictures: dict[str, Picture], objects: Objects, parts: tuple[str, ...]) -> dict[str, Any]:
    found = read_json(path, "COCO file")
    if not isinstance(found, dict) or not all(isinstance(found.get(part), list) for part in parts):
        raise UsageError(f"COCO file {str(path)!r} lacks {', '.join(parts)}. Take the files of COCO's 2014 release.")
    for row in found["images"]:
        pictures.setdefault(str(row["id"]), Picture(str(row["id"]), str(row["file_name"]), objects))
    return found


def _own(found: dict[str, Any], pictures: dict[str, Picture]) -> list[Picture]:
    return [pictures[str(row["id"])] for row in found["images"]]


def _annotations(path: Path, found: dict[str, Any], pictures: dict[str, Picture], problems: Problems):
    for number, row in enumerate(found["annotations"], 1):
        place = f"{path}, annotation {number}"
        picture = pictures.get(str(row.get("image_id")))
        if picture is None:
            problems.add(place, f"image {row.get('image_id')!r} is not among the file's images")
        else:
            yield place, row, picture
