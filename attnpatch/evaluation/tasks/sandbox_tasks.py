"""The tasks in the sandbox language, from the generators that trained the sandbox model (the test stream)."""

from __future__ import annotations

from attnpatch import sandbox
from attnpatch.evaluation.tasks.base import Document, Task
from attnpatch.evaluation.tasks.by_position import by_position
from attnpatch.evaluation.tasks.options import DEPTHS, TaskOptions
from attnpatch.sandbox.text import vocabulary

VERSION = 1
DERIVED = {  # our task: the sandbox's
    "passkey_grid": ("passkey", "4 digits at set depths (--depths), with what the mask can reach"),
    "perplexity_by_position": ("perplexity", "the same stories, scored in 8 bins along the document"),
}


def speaks_sandbox(tokenizer) -> bool:
    """True if the tokenizer is the sandbox's own: the same words under the same ids."""
    return tokenizer is not None and tokenizer.get_vocab() == vocabulary.ID


def sandbox_tasks(options: TaskOptions) -> dict[str, Task]:
    """All tasks of the sandbox language, by name."""
    sources = {name: (name, spec.description) for name, spec in sandbox.TASKS.items()} | DERIVED
    found = {}
    for name, (origin, description) in sources.items():
        spec = sandbox.TASKS[origin]
        build = _builder(name, origin, options)
        found[name] = Task(name, "sandbox", VERSION, description, spec.metric, spec.chance, build)
    return found


def _builder(name: str, origin: str, options: TaskOptions):
    def build(length: int, count: int, seed: int) -> list[Document]:
        if name in ("needle", "passkey_grid"):
            return _at_depths(origin, length, count, seed, options)
        rows = sandbox.samples(origin, length, count, stream="test", seed=seed)
        documents = [_document(str(index), row) for index, row in enumerate(rows)]
        return [by_position(one) for one in documents] if name == "perplexity_by_position" else documents

    return build


def _at_depths(origin: str, length: int, count: int, seed: int, options: TaskOptions) -> list[Document]:
    """Facts at the given or at evenly spread depths, so that a heatmap over depth has the same number in every row."""
    documents = []
    for index in range(count):
        depth = options.depth(index, DEPTHS)
        # One stream per document: `samples` numbers its rows from 0.
        row = sandbox.samples(origin, length, 1, stream="test", seed=seed * 1_000_000 + index, depth=depth)[0]
        document = _document(str(index), row)
        document.meta["place"] = depth
        documents.append(document)
    return documents


def _document(name: str, row: sandbox.Sample) -> Document:
    meta = {key: row.meta[key] for key in ("depth", "gap", "candidates") if key in row.meta}
    surnames = set(row.meta.get("long_range_positions", ()))
    if surnames:
        meta["slices"] = {"long_range": [i for i, p in enumerate(row.answer_positions) if p in surnames]}
    return Document(name, tuple(row.input_ids), tuple(row.answer_positions), meta)
