"""Seeded samples of every task, in disjoint train, dev and test streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import signature
from random import Random
from typing import Any

from attnpatch.sandbox.text import tasks
from attnpatch.sandbox.text.rows import Sample

STREAMS = ("train", "dev", "test")
LONGEST = 4096


@dataclass(frozen=True)
class TaskSpec:
    """One evaluation task.

    Attributes:
        name: how users call it.
        description: one line for tables and help.
        metric: "accuracy" (of the answer tokens) or "perplexity" (of them).
        chance: accuracy of blind guessing among the plausible answers; None for perplexity.
        smallest: the smallest length that works with the default options.
        build: `(rng, length, **options) -> Sample`.
        options: what the evaluation passes to `build`.
    """

    name: str
    description: str
    metric: str
    chance: float | None
    smallest: int
    build: Callable[..., Sample]
    options: dict[str, Any] = field(default_factory=dict)


_SPECS = (
    TaskSpec("needle", "one key-value pair in filler, asked at the end", "accuracy", 0.01, 16, tasks.needles),
    TaskSpec(
        "needles16",
        "16 key-value pairs in filler, all asked at the end",
        "accuracy",
        1 / 16,
        128,
        tasks.needles,
        {"facts": 16},
    ),
    TaskSpec(
        "repeated",
        "one key-value pair stated 8 times, asked at the end",
        "accuracy",
        0.01,
        64,
        tasks.needles,
        {"repeat": 8},
    ),
    TaskSpec(
        "mqar",
        "associative recall: length/32 pairs first, each asked once later",
        "accuracy",
        1 / 16,
        80,
        tasks.mqar,
    ),
    TaskSpec("chain", "variable chains of 3 hops, spelled in the answer", "accuracy", 0.01, 64, tasks.chain),
    TaskSpec("copy", "16 words quoted again at the end", "accuracy", 0.01, 64, tasks.copy),
    TaskSpec("passkey", "4 digits hidden in filler, asked at the end", "accuracy", 0.1, 32, tasks.passkey),
    TaskSpec("local", "sums, counting and animal sounds: a few tokens of reach", "accuracy", 0.01, 16, tasks.local),
    TaskSpec("perplexity", "a story whose surnames need long range", "perplexity", None, 64, tasks.document),
)
TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in _SPECS}


def samples(task: str, length: int, count: int, stream: str = "test", seed: int = 0, **options: Any) -> list[Sample]:
    """`count` samples of `task`, each of exactly `length` tokens.

    A sample depends only on (stream, task, length, seed, index): any count and order gives the same ones.
    `options` go to the task's builder (`depth=0.5` for needle, copy and passkey; `pairs=16` for mqar; ...).

    Raises:
        ValueError: unknown task or stream, a length that does not work, an option the task does not have.
    """
    if task not in TASKS:
        close = get_close_matches(str(task), TASKS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown sandbox task {task!r}.{hint} Allowed: {', '.join(TASKS)}")
    if stream not in STREAMS:
        raise ValueError(f"unknown stream {stream!r}. Allowed: {', '.join(STREAMS)}")
    spec = TASKS[task]
    if not spec.smallest <= length <= LONGEST:
        raise ValueError(f"length {length} does not work for task {task!r}: use {spec.smallest} to {LONGEST} tokens")
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    known = [name for name, p in signature(spec.build).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise ValueError(f"task {task!r} has no option {name!r}. Allowed: {', '.join(known)}")
    merged = {**spec.options, **options}
    return [spec.build(Random(f"{stream}/{task}/{length}/{seed}/{index}"), length, **merged) for index in range(count)]
