"""What a run tells while it runs: a JSON line per step, a progress bar, and a tracker if one is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attnpatch.training.samples import Sample

LOG_FILE = "train_log.jsonl"


class Log:
    """`train_log.jsonl` of a run that has done `step` steps; lines of steps beyond that are forgotten."""

    def __init__(self, folder: Path, step: int) -> None:
        self.file = folder / LOG_FILE
        kept = self.file.read_text().splitlines() if self.file.exists() and step else []
        kept = [line for line in kept if _step(line) <= step]
        self.file.write_text("".join(f"{line}\n" for line in kept))

    def write(self, entry: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _step(line: str) -> float:
    """The step of a line; never, for one that was not written to its end."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def means_by_task(found: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Mean of a per-sample value over the samples of each task."""
    by_task: dict[str, list[float]] = {}
    for one in found:
        for task, value in zip(one["tasks"], one[key], strict=True):
            by_task.setdefault(task, []).append(value)
    return {task: round(sum(values) / len(values), 4) for task, values in sorted(by_task.items())}


def scalars(entry: dict[str, Any]) -> dict[str, float]:
    """The numbers of a log line with flat names, for trackers."""
    flat: dict[str, float] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            for name, one in value.items():
                values = one if isinstance(one, list) else [one]
                flat |= {f"{key}/{name}" + (f"/{i + 1}" if len(values) > 1 else ""): x for i, x in enumerate(values)}
        elif isinstance(value, (int, float)):
            flat[key] = value
    return flat


@contextmanager
def progress_bar(show: bool, total: int, done: int) -> Iterator[Any]:
    """Yields a function that takes a log line; a bar on a terminal, else nothing."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("training", total=total, completed=done)

        def advance(entry: dict[str, Any]) -> None:
            omegas = "  ".join(f"Ω {name} {value:.2f}" for name, value in entry.get("omega", {}).items())
            bar.update(task, completed=entry["step"], description=f"loss {entry['loss']:.3f}  {omegas}")

        yield advance


def describe(samples: list[Sample]) -> str:
    """Samples in words, for messages."""
    shown = ", ".join(f"{sample.id} ({sample.task}, {len(sample)} tokens)" for sample in samples[:4])
    return shown + (f" and {len(samples) - 4} more" if len(samples) > 4 else "")
