"""The tasks as plain text for any tokenizer; every document has the exact length in tokens."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

from attnpatch.evaluation.tasks import text_recall as recall
from attnpatch.evaluation.tasks.base import Document, Task
from attnpatch.evaluation.tasks.language import Language
from attnpatch.evaluation.tasks.text_perplexity import perplexity, read_text

VERSION = 1
TEXT_TASKS = {
    "needle": "one key-value pair in filler, asked at the end",
    "needles16": "16 key-value pairs in filler, all asked at the end",
    "mqar": "associative recall: pairs first, each key repeated once later",
    "copy": "16 words quoted again at the end",
    "passkey": "5 digits hidden in filler, asked at the end",
    "perplexity": "stories whose surnames need long range, or a --text-file",
}


def text_tasks(tokenizer, text_file: str | Path | None = None) -> dict[str, Task]:
    """All text tasks for a tokenizer, by name; `text_file` replaces the built-in stories of `perplexity`.

    Raises:
        UsageError: `text_file` cannot be read.
    """
    language = Language(tokenizer)
    corpus = read_text(text_file) if text_file is not None else None
    builders = {
        "needle": recall.needles,
        "needles16": partial(recall.needles, count=16),
        "mqar": recall.mqar,
        "copy": recall.copy,
        "passkey": recall.passkey,
        "perplexity": partial(perplexity, corpus=corpus),
    }
    chance = {"needles16": 1 / 16, "mqar": 1 / 16}
    return {
        name: Task(
            name,
            "text",
            VERSION,
            TEXT_TASKS[name],
            "perplexity" if name == "perplexity" else "accuracy",
            chance.get(name),
            partial(_documents, builder, name, language),
        )
        for name, builder in builders.items()
    }


def _documents(builder, name: str, language: Language, length: int, count: int, seed: int) -> list[Document]:
    documents = []
    for index in range(count):
        rng = Random(f"{seed}/{name}/{length}/{index}")
        ids, answers, meta = builder(rng, language, length, index=index)
        documents.append(Document(str(index), tuple(ids), tuple(answers), meta))
    return documents
