"""SQuAD and HotpotQA, from their official JSON files or from the Hub, as questions over one pool of documents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnpatch.evaluation.errors import SkipCell, UsageError


@dataclass(frozen=True)
class Question:
    """answers: each of them is right. gold, more: indices of its documents, and of others close to them."""

    text: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    more: tuple[int, ...] = ()


@dataclass(frozen=True)
class Questions:
    """documents: all of them, each once, sorted. with_gold: True if the gold document holds the answer."""

    documents: list[str]
    questions: list[Question]
    with_gold: bool


def read_json(path: str, flag: str) -> Any:
    """A JSON file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{flag} {path!r} cannot be read as JSON: {error}") from error


def hub_rows(
    name: str, flag: str, splits: tuple[str, ...] = ("validation",), config: str | None = None
) -> list[dict[str, Any]]:
    """All rows of a data set on the Hub, of the first of `splits` that it has.

    Raises:
        SkipCell: the package `datasets` is missing, or the data cannot be had (offline, unknown).
        UsageError: `name` looks like a file and there is none.
    """
    if Path(name).suffix in (".json", ".txt", ".md") or name.startswith((".", "~")) or name.count("/") > 1:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise UsageError(f"{flag} {name!r} does not exist. Give a file, or the name of a data set on the Hub.")
        name = str(folder)
    try:
        import datasets
    except ImportError as error:
        raise SkipCell(
            f"{flag} {name!r} needs the package datasets", 'pip install "attnpatch[eval]", or give a file'
        ) from error
    try:
        known = datasets.get_dataset_split_names(name, config)
        split = next((split for split in splits if split in known), known[0])
        return list(datasets.load_dataset(name, config, split=split))
    except Exception as error:  # a dozen types, each means that the data cannot be had
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SkipCell(
            f"{flag} {name!r} cannot be loaded ({text})",
            f"download it where there is a network (hf download --repo-type dataset {name}), or give a file",
        ) from error


def read_squad(found: Any, path: str) -> Questions:
    """SQuAD 1.1 or 2.0 without its unanswerable questions.

    Raises:
        UsageError: another format.
    """
    try:
        rows = _squad_rows(found)
        documents = sorted({context for _, context, _, _ in rows})
        number = {document: index for index, document in enumerate(documents)}
        titles: dict[str, dict[int, None]] = {}
        for title, context, _, _ in rows:
            titles.setdefault(title, {})[number[context]] = None
        questions = []
        for title, context, text, answers in rows:
            if answers:
                gold = number[context]
                more = tuple(index for index in titles[title] if index != gold)
                questions.append(Question(text, tuple(dict.fromkeys(answers)), (gold,), more))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"--squad {path!r} is not in SQuAD's format: {error!r}") from error
    return _checked(Questions(documents, questions, True), "--squad", path)


def _squad_rows(found: Any) -> list[tuple[str, str, str, list[str]]]:
    """(title, document, question, answers)."""
    if not isinstance(found, Mapping):  # from the Hub
        return [(row["title"], row["context"], row["question"], list(row["answers"]["text"])) for row in found]
    return [
        (str(number), part["context"], one["question"], _answers(one))
        for number, article in enumerate(found["data"])
        for part in article["paragraphs"]
        for one in part["qas"]
    ]


def _answers(question: Mapping[str, Any]) -> list[str]:
    return [] if question.get("is_impossible") else [answer["text"] for answer in question["answers"]]


def read_hotpot(found: Any, path: str) -> Questions:
    """HotpotQA, distractor setting: ten documents come with every question.

    Raises:
        UsageError: another format.
    """
    try:
        rows = [(row["question"], row["answer"], _paragraphs(row["context"])) for row in found]
        documents = sorted({document for _, _, parts in rows for document in parts})
        number = {document: index for index, document in enumerate(documents)}
        questions = [
            Question(text, (answer,), tuple(dict.fromkeys(number[part] for part in parts)))
            for text, answer, parts in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"--hotpot {path!r} is not in HotpotQA's format: {error!r}") from error
    return _checked(Questions(documents, questions, False), "--hotpot", path)


def _paragraphs(context: Any) -> list[str]:
    pairs: Iterable = zip(context["title"], context["sentences"], strict=True) if "title" in context else context
    return [f"{title}\n{''.join(sentences)}" for title, sentences in pairs]


def _checked(found: Questions, flag: str, path: str) -> Questions:
    if not found.questions:
        raise UsageError(f"{flag} {path!r} holds no question with an answer.")
    return found
