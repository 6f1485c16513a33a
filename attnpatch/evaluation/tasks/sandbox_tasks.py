"""The tasks in the sandbox language, from the generators that trained the sandbox model (the test stream)."""

from __future__ import annotations

from attnpatch import sandbox
from attnpatch.evaluation.tasks.base import Document, Task
from attnpatch.sandbox.text import vocabulary

VERSION = 1
DEPTHS = 8  # needle documents are spread evenly over this many depths


def speaks_sandbox(tokenizer) -> bool:
    """True if the tokenizer is the sandbox's own: the same words under the same ids."""
    return tokenizer is not None and tokenizer.get_vocab() == vocabulary.ID


def sandbox_tasks() -> dict[str, Task]:
    """All tasks of the sandbox language, by name."""
    return {
        name: Task(name, "sandbox", VERSION, spec.description, spec.metric, spec.chance, _builder(name))
        for name, spec in sandbox.TASKS.items()
    }


def _builder(name: str):
    def build(length: int, count: int, seed: int) -> list[Document]:
        if name == "needle":
            return _needles_at_depths(length, count, seed)
        rows = sandbox.samples(name, length, count, stream="test", seed=seed)
        return [_document(str(index), row) for index, row in enumerate(rows)]

    return build


def _needles_at_depths(length: int, count: int, seed: int) -> list[Document]:
    """Needles at evenly spread depths, so that a heatmap over depth has the same number in every row."""
    documents = []
    for index in range(count):
        depth = (index % DEPTHS + 0.5) / DEPTHS
        # One stream per document: `samples` numbers its rows from 0.
        row = sandbox.samples("needle", length, 1, stream="test", seed=seed * 1_000_000 + index, depth=depth)[0]
        documents.append(_document(str(index), row))
    return documents


def _document(name: str, row: sandbox.Sample) -> Document:
    meta = {key: row.meta[key] for key in ("depth", "gap", "candidates") if key in row.meta}
    surnames = set(row.meta.get("long_range_positions", ()))
    if surnames:
        meta["slices"] = {"long_range": [i for i, p in enumerate(row.answer_positions) if p in surnames]}
    return Document(name, tuple(row.input_ids), tuple(row.answer_positions), meta)
