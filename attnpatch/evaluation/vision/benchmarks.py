"""POPE, CHAIR, MME and AMBER as tasks: which documents, and how the answers are scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination import (
    Objects,
    Problems,
    Question,
    amber,
    chair,
    mme,
    own_objects,
    pope,
    read_amber,
    read_coco,
    read_mme,
    read_objects,
    read_pope,
)
from attnpatch.evaluation.hallucination.coco import Picture
from attnpatch.evaluation.hallucination.reading import read_text
from attnpatch.evaluation.tasks.base import Documents
from attnpatch.evaluation.tasks.options import TaskOptions
from attnpatch.evaluation.vision import amber_nouns
from attnpatch.evaluation.vision.building import Asked, from_files, limited, of_questions
from attnpatch.evaluation.vision.data import Data
from attnpatch.evaluation.vision.prompts import Prompter

Records = list[dict[str, Any]]
Build = Callable[[int, int, Prompter, TaskOptions], Documents]
VAL = "COCO_val2014"  # how the pictures begin that CHAIR is usually taken on


def texts(records: Records) -> list[str]:
    """What was answered."""
    return [one["prediction"] for one in records]


def questions(records: Records) -> list[Question]:
    """The yes/no questions behind records."""
    return [Question(one["id"], one["image"], "", one["references"][0], one["group"]) for one in records]


def pope_documents(splits: tuple[str, ...]) -> Build:
    """Questions of some splits; the limit holds for each."""

    def build(limit: int, seed: int, prompter: Prompter, options: TaskOptions) -> Documents:
        data, problems, settings = Data(options), Problems(options.vision.on_bad), options.vision
        found = [one for split in splits for one in read_pope(data.pope(split), split, problems)]
        asked = of_questions(limited(found, limit), settings.suffix)
        details = {"max_new_tokens": settings.answer_tokens, "suffix": settings.suffix}
        return from_files(asked, "pope", data, prompter, problems, details)

    return build


def pope_columns(records: Records) -> dict[str, Any]:
    return pope.columns(texts(records), questions(records))


def mme_documents(limit: int, seed: int, prompter: Prompter, options: TaskOptions) -> Documents:
    """Questions of all subtasks; the limit holds for each, and both questions of a picture stay together."""
    data, problems = Data(options), Problems(options.vision.on_bad)
    asked = limited(read_mme(data.place("mme"), problems), limit, whole=2)
    details = {
        "max_new_tokens": options.vision.answer_tokens,
        "suffix": "the questions' own",
        "incomplete": mme.incomplete(asked),
    }
    return from_files(of_questions(asked, ""), "mme", data, prompter, problems, details)


def mme_columns(records: Records) -> dict[str, Any]:
    return mme.columns(texts(records), questions(records))


def amber_documents(limit: int, seed: int, prompter: Prompter, options: TaskOptions) -> Documents:
    """AMBER's yes/no questions; the limit holds for each type."""
    data, problems, settings = Data(options), Problems(options.vision.on_bad), options.vision
    found, _ = read_amber(data.place("amber"), problems)
    details = {"max_new_tokens": settings.answer_tokens, "suffix": settings.suffix}
    asked = of_questions(limited(found, limit), settings.suffix)
    return from_files(asked, "amber", data, prompter, problems, details)


def amber_columns(records: Records) -> dict[str, Any]:
    return amber.columns(texts(records), questions(records))


def amber_caption_documents(limit: int, seed: int, prompter: Prompter, options: TaskOptions) -> Documents:
    """AMBER's pictures to be described. Raises SkipCell without the packages that find nouns."""
    amber_nouns.require()
    data, problems = Data(options), Problems(options.vision.on_bad)
    folder = data.place("amber")
    _, found = read_amber(folder, problems)
    asked = [
        Asked(one.id, one.image, one.text, one.annotation.truth, extra={"hallu": list(one.annotation.hallu)})
        for one in found[:limit]
    ]
    details = {"max_new_tokens": options.vision.caption_tokens, "words": amber_nouns.lexicon_digest(folder)}
    return from_files(asked, "amber", data, prompter, problems, details)


def amber_caption_columns(options: TaskOptions) -> Callable[[Records], dict[str, Any]]:
    """Nouns are found, and compared, when the captions are there."""
    return lambda records: amber_nouns.columns(records, Data(options).place("amber"))


def chair_documents(limit: int, seed: int, prompter: Prompter, options: TaskOptions) -> Documents:
    """Pictures of COCO to be described, drawn by the data seed, or those of --chair-images."""
    data, problems, settings = Data(options), Problems(options.vision.on_bad), options.vision
    objects, digest = chair_objects(options)
    known = read_coco(data.place("coco"), objects, problems)
    if options.chair_images is not None:
        chosen = _listed(options.chair_images, known, problems)[:limit]
    else:
        pool = sorted(one.id for one in known.values() if one.file_name.startswith(VAL)) or sorted(known)
        chosen = [known[name] for name in Random(f"chair/{seed}").sample(pool, min(limit, len(pool)))]
    asked = [Asked(one.id, one.file_name, settings.caption_prompt, tuple(sorted(one.truth))) for one in chosen]
    details = {
        "max_new_tokens": settings.caption_tokens,
        "caption_prompt": settings.caption_prompt,
        "objects": digest,
        "synonyms": "own" if options.chair_synonyms is None else "given",
    }
    return from_files(asked, "coco", data, prompter, problems, details)


def chair_columns(options: TaskOptions) -> Callable[[Records], dict[str, Any]]:
    """CHAIR by the table that the options name."""
    return lambda records: caption_columns(records, chair_objects(options)[0])


def caption_columns(records: Records, objects: Objects) -> dict[str, Any]:
    """CHAIR of captions whose references are the objects that are there."""
    return chair.columns(texts(records), [one["references"] for one in records], objects)


def chair_objects(options: TaskOptions) -> tuple[Objects, str]:
    """The table of objects and its hash. Raises UsageError for a file that is none."""
    return own_objects() if options.chair_synonyms is None else read_objects(options.chair_synonyms)


def _listed(path: str, known: dict[str, Picture], problems: Problems) -> list[Picture]:
    names = {one.file_name: one for one in known.values()}
    found = []
    for number, line in enumerate(read_text(Path(path), "--chair-images").splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        one = known.get(name) or names.get(name) or known.get(name.lstrip("0"))
        if one is None:
            problems.add(f"{path}, line {number}", f"{name!r} is no picture with annotations")
        elif one in found:
            problems.add(f"{path}, line {number}", f"{name!r} stands there twice")
        else:
            found.append(one)
    if not found:
        raise UsageError(f"--chair-images {path!r} names no picture; write one id or file name a line.")
    return found
