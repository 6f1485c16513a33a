"""AMBER's files: annotations, queries, and the words that its captions are judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination.amber import GENERATIVE, TYPES, typed
from attnpatch.evaluation.hallucination.amber_captions import Annotation, Lexicon
from attnpatch.evaluation.hallucination.problems import Problems
from attnpatch.evaluation.hallucination.questions import Question, as_question
from attnpatch.evaluation.hallucination.reading import read_json, read_text, rows

QUERIES = ("query/query_all.json", "query_all.json")


@dataclass(frozen=True)
class Caption:
    """A picture to be described, and what is in it."""

    id: str
    image: str
    text: str
    annotation: Annotation


def read_amber(folder: Path, problems: Problems) -> tuple[list[Question], list[Caption]]:
    """Questions and captions of AMBER's `data` folder: annotations.json, and query/query_all.json, joined by id.

    Raises:
        UsageError: a file cannot be read; with `problems` set to stop, an entry that cannot be used.
    """
    queries = _queries(folder, problems)
    questions, captions, seen = [], [], set()
    for place, row in rows(folder / "annotations.json", "AMBER file", problems):
        name, kind = str(row.get("id")), row.get("type")
        if name in seen:
            problems.add(place, f"id {name} stands there twice")
        elif kind not in (GENERATIVE, *TYPES):
            problems.add(place, f"its type is {kind!r}. Allowed: {', '.join((GENERATIVE, *TYPES))}")
        elif name not in queries:
            problems.add(place, f"id {name} has no query with an image and a text")
        else:
            _, asked = queries[name]
            query = {"id": name, "image": asked["image"], "text": asked["query"]}
            try:
                if kind == GENERATIVE:
                    annotation = Annotation(_words(row, "truth"), _words(row, "hallu"))
                    captions.append(Caption(**query, annotation=annotation))
                else:
                    questions.append(typed(as_question({**query, "type": kind, "label": row.get("truth")})))
            except ValueError as error:
                problems.add(place, str(error))
        seen.add(name)
    for name, (place, _) in queries.items():
        if name not in seen:
            problems.add(place, f"id {name} has no annotation")
    return questions, captions


def read_lexicon(folder: Path) -> Lexicon:
    """relation.json and safe_words.txt. Raises UsageError."""
    association = read_json(folder / "relation.json", "AMBER file")
    if not isinstance(association, dict) or not all(isinstance(words, list) for words in association.values()):
        raise UsageError(f"AMBER file {str(folder / 'relation.json')!r} is no mapping of words to lists of words.")
    safe = read_text(folder / "safe_words.txt", "AMBER file").splitlines()
    return Lexicon(association, frozenset(word.strip() for word in safe) - {""})


def _queries(folder: Path, problems: Problems) -> dict[str, tuple[str, dict[str, Any]]]:
    path = next((folder / name for name in QUERIES if (folder / name).is_file()), folder / QUERIES[0])
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for place, row in rows(path, "AMBER file", problems):
        if not problems.complete(place, row, ("id", "image", "query")):
            continue
        if str(row["id"]) in found:
            problems.add(place, f"id {row['id']} stands there twice")
        else:
            found[str(row["id"])] = place, row
    return found


def _words(row: dict[str, Any], name: str) -> tuple[str, ...]:
    words = row.get(name)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"its {name} is {words!r}, not a list of words")
    return tuple(words)
