"""Tasks by name. One name means the same idea for every tokenizer; which generator builds it depends on the tokenizer.

To add tasks of another kind, return them from `available()`; a name unknown to a tokenizer becomes a skipped cell.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from attnpatch.evaluation.errors import SkipCell, UsageError
from attnpatch.evaluation.tasks.base import Document, Task, documents_hash
from attnpatch.evaluation.tasks.sandbox_tasks import sandbox_tasks, speaks_sandbox
from attnpatch.evaluation.tasks.text_tasks import TEXT_TASKS, text_tasks
from attnpatch.patching.errors import did_you_mean

__all__ = ["Document", "Task", "available", "check_names", "documents_hash", "find", "known"]

DECODE = "_decode"
_NO_TAIL = ("perplexity", "local")  # nothing is asked at their end, so there is nothing to feed token by token


def known() -> dict[str, dict[str, str]]:
    """Every task name with the description of each source that has it: `{name: {source: description}}`."""
    names: dict[str, dict[str, str]] = {}
    for source, descriptions in (
        ("sandbox", {name: task.description for name, task in sandbox_tasks().items()}),
        ("text", TEXT_TASKS),
    ):
        for name, description in descriptions.items():
            names.setdefault(name, {})[source] = description
            if name not in _NO_TAIL:
                names.setdefault(name + DECODE, {})[source] = description + _decoded
    return names


_decoded = "; the question is fed token by token over the cached context"


def check_names(names: list[str]) -> None:
    """Raise UsageError for a name that no tokenizer has."""
    allowed = known()
    for name in names:
        if name not in allowed:
            raise UsageError(
                f"unknown task {name!r}.{did_you_mean(name, allowed)} Allowed: {', '.join(sorted(allowed))}."
            )


def available(tokenizer, text_file: str | Path | None = None) -> dict[str, Task]:
    """The tasks for a tokenizer: the sandbox's own language if it speaks it, else plain text.

    Raises:
        UsageError: `text_file` cannot be read.
    """
    if speaks_sandbox(tokenizer):
        tasks = sandbox_tasks()
        if text_file is not None:
            tasks["perplexity"] = text_tasks(tokenizer, text_file)["perplexity"]
    else:
        tasks = text_tasks(tokenizer, text_file)
    decoded = {
        name + DECODE: replace(task, name=name + DECODE, description=task.description + _decoded, mode="decode")
        for name, task in tasks.items()
        if name not in _NO_TAIL
    }
    return {**tasks, **decoded}


def find(tasks: dict[str, Task], name: str) -> Task:
    """`tasks[name]`.

    Raises:
        SkipCell: the tokenizer at hand has no such task.
    """
    if name not in tasks:
        raise SkipCell(
            f"task {name!r} has no version for this model's tokenizer", f"choose among {', '.join(sorted(tasks))}"
        )
    return tasks[name]
