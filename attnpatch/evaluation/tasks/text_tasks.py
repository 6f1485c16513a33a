"""The tasks as plain text for any tokenizer; every document has the exact length in tokens."""

from __future__ import annotations

from functools import partial
from random import Random

from attnpatch.evaluation.tasks import text_recall as recall
from attnpatch.evaluation.tasks.base import Document, Task
from attnpatch.evaluation.tasks.by_position import by_position
from attnpatch.evaluation.tasks.language import Language
from attnpatch.evaluation.tasks.options import DEPTHS, TaskOptions
from attnpatch.evaluation.tasks.text_perplexity import perplexity, read_text

VERSION = 1
TEXT_TASKS = {
    "needle": "one key-value pair in filler, asked at the end",
    "needles16": "16 key-value pairs in filler, all asked at the end",
    "mqar": "associative recall: pairs first, each key repeated once later",
    "copy": "16 words quoted again at the end",
    "passkey": "5 digits hidden in filler, asked at the end",
    "passkey_grid": "5 digits at set depths (--depths), with what the mask can reach",
    "perplexity": "stories whose surnames need long range, or a --text-file",
    "perplexity_by_position": "the same text, scored in 8 bins along the document",
}


def text_tasks(tokenizer, options: TaskOptions) -> dict[str, Task]:
    """All text tasks for a tokenizer, by name.

    Raises:
        UsageError: the text file cannot be read.
    """
    language = Language(tokenizer)
    corpus = read_text(options.text_file) if options.text_file is not None else None
    builders = {
        "needle": _at_depths(recall.needles, options),
        "needles16": partial(recall.needles, count=16),
        "mqar": recall.mqar,
        "copy": recall.copy,
        "passkey": recall.passkey,
        "passkey_grid": _at_depths(recall.passkey, options),
        "perplexity": partial(perplexity, corpus=corpus),
        "perplexity_by_position": partial(perplexity, corpus=corpus),
    }
    chance = {"needles16": 1 / 16, "mqar": 1 / 16}
    return {
        name: Task(
            name,
            "text",
            VERSION,
            TEXT_TASKS[name],
            "perplexity" if name.startswith("perplexity") else "accuracy",
            chance.get(name),
            partial(_documents, builder, name, language),
        )
        for name, builder in builders.items()
    }


def _at_depths(builder, options: TaskOptions):
    def build(rng: Random, language: Language, length: int, *, index: int):
        depth = options.depth(index, DEPTHS)
        ids, answers, meta = builder(rng, language, length, index=index, depth=depth)
        return ids, answers, {**meta, "place": depth}

    return build


def _documents(builder, name: str, language: Language, length: int, count: int, seed: int) -> list[Document]:
    documents = []
    for index in range(count):
        rng = Random(f"{seed}/{name}/{length}/{index}")
        ids, answers, meta = builder(rng, language, length, index=index)
        document = Document(str(index), tuple(ids), tuple(answers), meta)
        documents.append(by_position(document) if name == "perplexity_by_position" else document)
    return documents
