"""RULER's own summary: the mean over its tasks per length, and the effective length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from statistics import fmean
from typing import Any

from attnpatch.evaluation.headline import Cell, Line, ShortTable, groups, keys_text, score_cell
from attnpatch.evaluation.ruler.specs import RULER_TASKS
from attnpatch.evaluation.summary import Row

ALL = len(RULER_TASKS)
THRESHOLD = 85.6  # Llama2-7B at 4096 tokens, the paper's bar for a length that still works (arXiv 2404.06654)
NOTES = (
    f"ruler_* scores are NVIDIA's string match, 0 to 100. Only the mean of all {ALL} tasks is called RULER. Effective "
    f"length: the longest one measured at which it is at least {THRESHOLD} (the paper's threshold), as it is at all "
    "shorter ones.",
    "Against NVIDIA/RULER: same tasks, templates, sizes and metrics, but not the same documents. Every sample has a "
    "random stream of its own (NVIDIA: one for all, and one shuffle for all samples of niah and cwe), each is as long "
    "as fits, sentences end at . ! or ? (NVIDIA: nltk), questions come in a seeded order, the example of vt is longer "
    "than 500 tokens where a tokenizer needs it, fwe is refused where its third and fourth word tie.",
    "Not comparable with lm-eval's ruler tasks: there qa is the share of accepted answers matched, cwe's example is "
    "missing from the prompt, fwe's length leaves no room for the answer, vt says `assgined` and has one fixed "
    "example, essays are not repeated, scores are 0 to 1.",
)


@dataclass(frozen=True)
class Overall:
    """One method at one budget and length: the mean over the RULER tasks that ran, and how many these are."""

    method: str
    budget: int | None
    length: int
    value: float
    tasks: int

    @property
    def complete(self) -> bool:
        """All tasks ran: the mean may be called RULER."""
        return self.tasks == ALL

    @property
    def text(self) -> str:
        return f"{self.value:.2f}" if self.complete else f"{self.value:.2f} ({self.tasks}/{ALL})"


@dataclass(frozen=True)
class Effective:
    """The longest length at which RULER reaches the threshold; 0 if none does. `longest`: the longest one measured."""

    method: str
    budget: int | None
    length: int
    longest: int

    @property
    def text(self) -> str:
        if not self.length:
            return "none"
        return f"≥ {self.length}" if self.length == self.longest else str(self.length)


def ruler_rows(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.task in RULER_TASKS]


def overall(rows: Sequence[Row]) -> list[Overall]:
    """Means per method, budget and length."""
    found: dict[tuple, list[float]] = {}
    for row in ruler_rows(rows):
        found.setdefault((row.method, row.budget, row.length), []).append(row.value)
    return [Overall(*key, fmean(values), len(values)) for key, values in found.items()]


def effective(rows: Sequence[Row]) -> list[Effective]:
    """Effective lengths, of the methods that ran all tasks at two lengths or more."""
    found: dict[tuple, list[Overall]] = {}
    for one in overall(rows):
        found.setdefault((one.method, one.budget), []).append(one)
    results = []
    for (method, budget), means in found.items():
        if len(means) > 1 and all(one.complete for one in means):
            means.sort(key=lambda one: one.length)
            reached = [one.length for one in takewhile(lambda one: one.value >= THRESHOLD, means)]
            results.append(Effective(method, budget, reached[-1] if reached else 0, means[-1].length))
    return results


def to_dict(rows: Sequence[Row]) -> dict[str, Any] | None:
    """For results.json; None if no RULER task ran."""
    means = overall(rows)
    if not means:
        return None
    return {
        "notes": list(NOTES),
        "threshold": THRESHOLD,
        "means": [{**asdict(one), "is_ruler": one.complete} for one in means],
        "effective_lengths": [asdict(one) for one in effective(rows)],
    }


def ruler_tables(rows: Sequence[Row], model: str) -> list[ShortTable]:
    """One table per length with all tasks and their mean, and one of effective lengths."""
    own = ruler_rows(rows)
    tables = [_tasks(own, length, model) for length in sorted({row.length for row in own})]
    lengths = effective(own)
    return [*tables, _effective(own, lengths)] if lengths else tables


def _tasks(rows: list[Row], length: int, model: str) -> ShortTable:
    rows = [row for row in rows if row.length == length]
    means = {(one.method, one.budget): one for one in overall(rows)}
    ran = [name for name in RULER_TASKS if any(row.task == name for row in rows)]
    complete = all(one.complete for one in means.values())
    lines = []
    for budget, method in groups(rows):
        found = {row.task: row for row in rows if (row.budget, row.method) == (budget, method)}
        cells = [Cell(keys_text([row.mean_keys for row in found.values()]))]
        cells += [score_cell(found.get(name)) for name in ran]
        lines.append(Line(method, budget, [*cells, Cell(means[method, budget].text)]))
    title = f"{model}, {'RULER' if complete else f'tasks of RULER, not all {ALL}'}, {length} tokens"
    columns = ["keys", *(RULER_TASKS[name].short for name in ran), "RULER" if complete else "mean"]
    return ShortTable(title, columns, lines)


def _effective(rows: list[Row], found: list[Effective]) -> ShortTable:
    means = {(one.method, one.budget, one.length): one for one in overall(rows)}
    lengths = sorted({row.length for row in rows})
    by_method = {(one.method, one.budget): one for one in found}
    lines = []
    for budget, method in groups(rows):
        one = by_method.get((method, budget))
        at = [means.get((method, budget, length)) for length in lengths]
        cells = [Cell("-" if mean is None else mean.text) for mean in at]
        lines.append(Line(method, budget, [*cells, Cell("-" if one is None else one.text)]))
    return ShortTable("RULER by length", [*map(str, lengths), "effective length"], lines)
