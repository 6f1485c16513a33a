"""Annotation files row by row, each with its place, so that whatever is wrong with one can be named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination.problems import Problems
from attnpatch.evaluation.hallucination.questions import Question, as_question


def read_bytes(path: Path, what: str) -> bytes:
    """The file. Raises UsageError, saying that it was `what`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{what} {str(path)!r} cannot be read: {error.strerror or error}.") from error


def read_text(path: Path, what: str) -> str:
    """The file as UTF-8. Raises UsageError."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {str(path)!r} is not UTF-8 text: {error}.") from error


def read_json(path: Path, what: str) -> Any:
    """The file as one JSON value. Raises UsageError with the line where it breaks."""
    try:
        return json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{what} {str(path)!r}, line {error.lineno}: not JSON ({error.msg}). Download it again."
        ) from error


def rows(path: Path, what: str, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) from JSON lines, or from one JSON list.

    Raises:
        UsageError: the file cannot be read; with `problems` set to stop, a line that is no JSON object.
    """
    text = read_text(path, what)
    if text.lstrip().startswith("["):
        found = [(f"{path}, entry {number}", row) for number, row in enumerate(read_json(path, what), 1)]
    else:
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                place = f"{path}, line {number}"
                try:
                    found.append((place, json.loads(line)))
                except json.JSONDecodeError as error:
                    problems.add(place, f"not JSON ({error.msg})")
    for place, row in found:
        if isinstance(row, dict):
            yield place, row
        else:
            problems.add(place, f"a {type(row).__name__} where an object with question_id, image, ... should stand")


def read_pope(path: Path, split: str, problems: Problems) -> list[Question]:
    """POPE's questions of one split; ids are `split/question_id`.

    Rows are `{"question_id": 1, "image": "x.jpg", "text": "Is there ...?", "label": "yes"}`.

    Raises:
        UsageError: the file cannot be read; with `problems` set to stop, a row that cannot be used.
    """
    found: dict[str, Question] = {}
    for place, row in rows(path, "POPE file", problems):
        if not problems.complete(place, row, ("question_id", "image", "text", "label")):
            continue
        try:
            question = as_question({**row, "question_id": f"{split}/{row['question_id']}", "split": split})
        except ValueError as error:
            problems.add(place, str(error))
            continue
        if question.id in found:
            problems.add(place, f"question_id {row['question_id']!r} stands there twice")
            continue
        found[question.id] = question
    return list(found.values())


def read_mme(path: Path, problems: Problems) -> list[Question]:
    """MME's questions: a folder with `<subtask>.txt` (image, question, answer between tabs), or one file of JSON rows.

    Rows are `{"category": "count", "image": "x.jpg", "question": "...", "answer": "Yes"}`. Ids are
    `subtask/image#1` and `#2`.

    Raises:
        UsageError: nothing can be read; with `problems` set to stop, a row that cannot be used.
    """
    found: dict[tuple[str, str], list[Question]] = {}
    for place, row in _mme_folder(path, problems) if path.is_dir() else rows(path, "MME file", problems):
        if not problems.complete(place, row, ("category", "image", "question", "answer")):
            continue
        group, image = str(row["category"]), str(row["image"])
        pair = found.setdefault((group, image), [])
        try:
            name = f"{group}/{image}#{len(pair) + 1}"
            question = as_question({**row, "question_id": name, "split": None, "text": row["question"]})
        except ValueError as error:
            problems.add(place, str(error))
            continue
        if len(pair) == 2 or question.text in [one.text for one in pair]:
            problems.add(place, f"{image!r} of {group} has two questions already, or this very one")
            continue
        pair.append(question)
    return [question for pair in found.values() for question in pair]


def _mme_folder(folder: Path, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise UsageError(f"MME folder {str(folder)!r} holds no <subtask>.txt. Give the folder that holds them.")
    for file in files:
        for number, line in enumerate(read_text(file, "MME file").splitlines(), 1):
            parts, place = line.split("\t"), f"{file}, line {number}"
            if not line.strip():
                continue
            if len(parts) != 3:
                problems.add(place, f"{len(parts)} fields between tabs where image, question and answer should stand")
                continue
            yield place, dict(zip(("category", "image", "question", "answer"), (file.stem, *parts), strict=True))
