"""Tasks by name. One name means the same idea for every tokenizer; which generator builds it depends on the tokenizer.

To add tasks of another kind, return them from `available()`; a name unknown to a tokenizer becomes a skipped cell.
"""

from __future__ import annotations

from dataclasses import replace

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.lm_eval import names as lm_eval_names
from attnpatch.evaluation.ruler import specs as ruler
from attnpatch.evaluation.ruler.tasks import ruler_tasks
from attnpatch.evaluation.tasks.base import Document, Task, documents_hash
from attnpatch.evaluation.tasks.options import TaskOptions
from attnpatch.evaluation.tasks.sandbox_tasks import sandbox_tasks, speaks_sandbox
from attnpatch.evaluation.tasks.text_tasks import TEXT_TASKS, text_tasks
from attnpatch.evaluation.vision import tasks as vision

__all__ = [
    "Document",
    "Task",
    "TaskOptions",
    "available",
    "check_names",
    "documents_hash",
    "expand",
    "find",
    "known",
    "own_length",
]

DECODE = "_decode"
# Nothing is asked at the end of most of these, so there is nothing to feed token by token; reach is the prefill's.
_NO_DECODE = (
    "perplexity", "perplexity_by_position", "local", "passkey_grid", "mixed",
    "mqar_context", "local_context", "perplexity_context",
)  # fmt: skip
GROUPS = {
    "ruler": (ruler.ALL, "RULER: all 13 ruler_* tasks"),
    "ruler_offline": (ruler.OFFLINE, "the 6 ruler_* tasks that need no data"),
    **vision.GROUPS,
}


def known() -> dict[str, dict[str, str]]:
    """Every task name with the description of each source that has it: `{name: {source: description}}`."""
    names: dict[str, dict[str, str]] = {}
    for source, descriptions in (
        ("sandbox", {name: task.description for name, task in sandbox_tasks(TaskOptions()).items()}),
        ("text", TEXT_TASKS),
        ("ruler", {name: spec.description for name, spec in ruler.RULER_TASKS.items()}),
        (vision.SOURCE, {name: spec.description for name, spec in vision.SPECS.items()}),
    ):
        for name, description in descriptions.items():
            names.setdefault(name, {})[source] = description
            if source in ("sandbox", "text") and name not in _NO_DECODE:
                names.setdefault(name + DECODE, {})[source] = description + _decoded
    return names


_decoded = "; the question is fed token by token over the cached context"


def expand(name: str) -> tuple[str, ...]:
    """The tasks behind a group's name; a task stands for itself."""
    return GROUPS[name][0] if isinstance(name, str) and name in GROUPS else (name,)


def check_names(names: list[str], include_path: tuple[str, ...] = ()) -> None:
    """Raise UsageError for a name that neither we nor lm-eval have; `include_path`: folders with its task files."""
    lm_eval_names.check(names, ours(), include_path)


def ours() -> set[str]:
    """Names of tasks and groups that are not lm-eval's."""
    return {*GROUPS, *known()}


def own_length(name: str) -> bool:
    """True for a task of ours whose documents are as long as they are."""
    return name in vision.SPECS


def available(
    tokenizer, options: TaskOptions | None = None, processor=None, no_processor: str | None = None
) -> dict[str, Task]:
    """The tasks for a tokenizer: the sandbox's own language if it speaks it, else plain text and RULER.

    processor: what makes inputs of pictures, for tasks that show some; no_processor: why there is none.

    Raises:
        UsageError: the text file cannot be read.
    """
    sandbox, options = speaks_sandbox(tokenizer), options or TaskOptions()
    if sandbox:
        tasks = sandbox_tasks(options)
        if options.text_file is not None:
            own_text = text_tasks(tokenizer, options)
            tasks |= {name: own_text[name] for name in ("perplexity", "perplexity_by_position")}
    else:
        tasks = text_tasks(tokenizer, options)
    decoded = {
        name + DECODE: replace(task, name=name + DECODE, description=task.description + _decoded, mode="decode")
        for name, task in tasks.items()
        if name not in _NO_DECODE
    }
    pictures = vision.picture_tasks(processor, options, no_processor)
    return {**tasks, **decoded, **({} if sandbox else ruler_tasks(tokenizer, options)), **pictures}


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
