"""The tasks in the sandbox language, from the generators that trained the sandbox model (the test stream)."""

from __future__ import annotations

from dataclasses import replace

from attnpatch import sandbox
from attnpatch.evaluation.tasks.base import Document, Task
from attnpatch.evaluation.tasks.by_position import by_position
from attnpatch.evaluation.tasks.context import second_half
from attnpatch.evaluation.tasks.options import DEPTHS, TaskOptions
from attnpatch.sandbox.text import vocabulary

VERSION = 1
CONTEXT = "_context"
DERIVED = {  # our task: the sandbox's
    "passkey_grid": ("passkey", "4 digits at set depths (--depths), with what the mask can reach"),
    "perplexity_by_position": ("perplexity", "the same stories, scored in 8 bins along the document"),
} | {
    f"{name}{CONTEXT}": (
        name,
        f"{what}; scored in the second half, and methods that read the prompt before they decide read the first half",
    )
    for name, what in (
        ("mqar", "the same pairs and questions"),
        ("local", "the same sums, counting and sounds"),
        ("perplexity", "the same stories"),
    )
}
MIXED = ("needle", "needles16", "repeated", "mqar_context", "chain", "copy", "passkey", "local_context")
MIXED_TEXT = f"documents of {', '.join(MIXED)} in turn, so that no one plan suits all of them"


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
    parts = [found[name].build for name in MIXED]
    found["mixed"] = Task(
        "mixed", "sandbox", VERSION, MIXED_TEXT, "accuracy", None, lambda *asked: _mix(parts, *asked)
    )
    return found


def _mix(parts, length: int, count: int, seed: int) -> list[Document]:
    """The documents that the tasks themselves ask first, one of each in turn."""
    rounds = -(-count // len(parts))
    built = [build(length, rounds, seed) for build in parts[:count]]
    return [
        replace(one[number], id=f"{name}/{one[number].id}", meta={"kind": name})
        for number in range(rounds)
        for name, one in zip(MIXED, built, strict=False)
    ][:count]


def _builder(name: str, origin: str, options: TaskOptions):
    def build(length: int, count: int, seed: int) -> list[Document]:
        if name in ("needle", "passkey_grid"):
            return _at_depths(origin, length, count, seed, options)
        rows = sandbox.samples(origin, length, count, stream="test", seed=seed)
        documents = [as_document(str(index), row) for index, row in enumerate(rows)]
        change = by_position if name == "perplexity_by_position" else second_half if name.endswith(CONTEXT) else None
        return documents if change is None else [change(one) for one in documents]

    return build


def _at_depths(origin: str, length: int, count: int, seed: int, options: TaskOptions) -> list[Document]:
    """Facts at the given or at evenly spread depths, so that a heatmap over depth has the same number in every row."""
    documents = []
    for index in range(count):
        depth = options.depth(index, DEPTHS)
        # One stream per document: `samples` numbers its rows from 0.
        row = sandbox.samples(origin, length, 1, stream="test", seed=seed * 1_000_000 + index, depth=depth)[0]
        document = as_document(str(index), row)
        document.meta["place"] = depth
        documents.append(document)
    return documents


def as_document(name: str, row: sandbox.Sample) -> Document:
    """A generated row as a document to be scored."""
    meta = {key: row.meta[key] for key in ("depth", "gap", "candidates") if key in row.meta}
    surnames = set(row.meta.get("long_range_positions", ()))
    if surnames:
        meta["slices"] = {"long_range": [i for i, p in enumerate(row.answer_positions) if p in surnames]}
    return Document(name, tuple(row.input_ids), tuple(row.answer_positions), meta)
