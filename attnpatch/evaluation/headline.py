"""The short tables of a run as data: what methods score, and what they cost. Terminal and markdown render them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.metrics import METRICS
from attnpatch.evaluation.ruler.specs import RULER_TASKS
from attnpatch.evaluation.summary import Row, by_length, length_text

if TYPE_CHECKING:
    from attnpatch.evaluation.results import Results

SHORT = {"perplexity": "ppl", "long_range_perplexity": "ppl names"}
GAP = 2  # characters between columns
DETAIL_ONLY = ("candidate_accuracy",)


@dataclass(frozen=True)
class Cell:
    """One entry. best: beats every other method at its budget. differs: from stock, the interval excludes 0."""

    text: str
    best: bool = False
    differs: bool = False


@dataclass
class Line:
    """One method at one budget; budget None: as configured."""

    method: str
    budget: int | None
    cells: list[Cell] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.method if self.budget is None else f"{self.method} @{self.budget}"


@dataclass
class ShortTable:
    """Columns behind the method's name; the first one is the budget."""

    title: str
    columns: list[str]
    lines: list[Line]

    @property
    def label_width(self) -> int:
        return max((len(line.method) for line in self.lines), default=0)

    def width(self, index: int) -> int:
        """Characters that column `index` needs, its mark included and its title wrapped at spaces."""
        words = self.columns[index].split()
        return max(*map(len, words), *(len(line.cells[index].text) + 1 for line in self.lines), 0)

    @property
    def room(self) -> int:
        """Characters that a line needs, the gaps between columns included."""
        return self.label_width + 2 * GAP + sum(self.width(index) + GAP for index in range(len(self.columns)))

    def split(self, room: int) -> list[ShortTable]:
        """Parts that fit into `room` characters, each with the first column."""
        least = self.label_width + self.width(0) + 3 * GAP
        parts, used = [[0]], least
        for index in range(1, len(self.columns)):
            if used + self.width(index) + GAP > room and len(parts[-1]) > 1:
                parts.append([0])
                used = least
            parts[-1].append(index)
            used += self.width(index) + GAP
        return [
            ShortTable(
                self.title + (", continued" if number else ""),
                [self.columns[i] for i in part],
                [Line(line.method, line.budget, [line.cells[i] for i in part]) for line in self.lines],
            )
            for number, part in enumerate(parts)
        ]


def short_tables(results: Results) -> list[ShortTable]:
    """Per length the scores, without RULER's tasks, which have a table of their own, the share of sparse layers where
    a method routes them, and the cost.
    """
    model = str(results.run.get("model", {}).get("id", "model"))
    tables = []
    for length in sorted({row.length for row in results.rows}, key=by_length):
        rows = [row for row in results.rows if row.length == length and not is_detail(row)]
        text = length_text(length)
        scored = [row for row in rows if row.task not in RULER_TASKS]
        tables += [_scores(f"{model}, {text}", scored)] if scored else []
        tables += _routes(f"Ω at {text}: share of sparse layers, by task", rows)
        tables.append(_costs(f"Cost at {text}", rows, results.run.get("speed") or []))
    return tables


def delta_tables(results: Results) -> list[ShortTable]:
    """Per length every method's paired differences to stock with their intervals, RULER's tasks among them; none
    where nothing ran beside stock.
    """
    rows = [row for row in results.rows if row.delta is not None and not is_detail(row)]
    return [
        _scores(
            f"Difference to stock with its 95 % interval, {length_text(length)}",
            [row for row in rows if row.length == length],
            _delta_cell,
        )
        for length in sorted({row.length for row in rows}, key=by_length)
    ]


def delta_texts(row: Row) -> tuple[str, str]:
    """The paired difference to stock, and its interval."""
    return (
        "-" if row.delta is None else f"{row.delta:+.3f}",
        "-" if row.delta_low is None else f"{row.delta_low:+.3f} to {row.delta_high:+.3f}",
    )


def is_detail(row: Row) -> bool:
    """True for what is left out of the short tables."""
    return row.detail or row.metric in DETAIL_ONLY


def groups(rows: list[Row]) -> list[tuple[int | None, str]]:
    """(budget, method) pairs: methods as configured first, then budget by budget."""
    found = list(dict.fromkeys((row.budget, row.method) for row in rows))
    return sorted(found, key=lambda group: (group[0] is not None, group[0] or 0))


def task_name(task: str, metric: str) -> str:
    """The name of a column or panel."""
    name = task.replace("_decode", " (decode)").replace("_context", " (context)")
    if metric in SHORT:
        return SHORT[metric] if task in ("perplexity", "perplexity_decode") else f"{name} {SHORT[metric]}"
    return name if metric in METRICS else f"{name} {metric}"


def score_cell(row: Row | None) -> Cell:
    if row is None:
        return Cell("-")
    text = f"{row.value:.2f}" if row.value < 100 else f"{row.value:,.0f}"
    return Cell(text, row.best, row.significant)


def _delta_cell(row: Row | None) -> Cell:
    if row is None:
        return Cell("-")
    delta, interval = delta_texts(row)
    return Cell(delta if interval == "-" else f"{delta} ({interval})", differs=row.significant)


def _scores(title: str, rows: list[Row], shown: Callable[[Row | None], Cell] = score_cell) -> ShortTable:
    tasks = list(dict.fromkeys((row.task, row.metric) for row in rows))
    lines = []
    for budget, method in groups(rows):
        own = {(row.task, row.metric): row for row in rows if (row.budget, row.method) == (budget, method)}
        keys = Cell(keys_text([row.mean_keys for row in own.values()]))
        lines.append(Line(method, budget, [keys, *(shown(own.get(task)) for task in tasks)]))
    return ShortTable(title, ["keys", *(task_name(*task) for task in tasks)], lines)


def _routes(title: str, rows: list[Row]) -> list[ShortTable]:
    """Methods that route layers, task by task; no table if there are none."""
    found = {(row.budget, row.method, row.task): row.omega for row in rows if row.omega is not None}
    tasks = list(dict.fromkeys(row.task for row in rows))
    lines = []
    for budget, method in groups(rows):
        own = [found.get((budget, method, task)) for task in tasks]
        if any(omega is not None for omega in own):
            mean = fmean(omega for omega in own if omega is not None)
            lines.append(Line(method, budget, [Cell("-" if one is None else f"{one:.2f}") for one in (mean, *own)]))
    return [ShortTable(title, ["mean", *(task_name(task, "accuracy") for task in tasks)], lines)] if lines else []


def _costs(title: str, rows: list[Row], measured: list[dict[str, Any]]) -> ShortTable:
    """`measured`: from `measure_speed`. Without it the rates are those that cells noted in passing, without ratios."""
    speed = {(one["method"], one["budget"]): one for one in measured if one["length"] == rows[0].length}
    columns = {
        "keys": lambda own: keys_text([row.mean_keys for row in own]),
        "decode keys": lambda own: keys_text([row.decode_mean_keys for row in own]),
        "prefill tok/s": lambda own: _rate(own, speed, "prefill_tokens_per_s"),
        "of stock": lambda own: _share(own, speed, "prefill_of_stock"),
        "decode tok/s": lambda own: _rate(own, speed, "decode_tokens_per_s"),
        "of stock ": lambda own: _share(own, speed, "decode_of_stock"),
        "GPU peak": lambda own: _memory(own),
    }
    filled = []
    for budget, method in groups(rows):
        own = [row for row in rows if (row.budget, row.method) == (budget, method)]
        filled.append((method, budget, [column(own) for column in columns.values()]))
    used = [i for i in range(len(columns)) if any(texts[i] != "-" for _, _, texts in filled)]
    lines = [Line(method, budget, [Cell(texts[i]) for i in used]) for method, budget, texts in filled]
    names = list(columns)
    return ShortTable(title, [names[i].strip() for i in used], lines)


def keys_text(values: list[float | None]) -> str:
    present = [value for value in values if value is not None]
    return f"{median(present):.1f}" if present else "-"  # decode tasks prefill less, so not the mean


def _rate(rows: list[Row], speed: dict, name: str) -> str:
    rate = speed.get((rows[0].method, rows[0].budget), {}).get(name)
    if not speed:
        present = [getattr(row, name) for row in rows if getattr(row, name)]
        rate = median(present) if present else None
    return "-" if rate is None else f"{rate:,.0f}"


def _share(rows: list[Row], speed: dict, name: str) -> str:
    share = speed.get((rows[0].method, rows[0].budget), {}).get(name)
    return "-" if share is None else f"{share:.2f}"


def _memory(rows: list[Row]) -> str:
    peaks = [row.peak_memory for row in rows if row.peak_memory]
    return f"{max(peaks) / 2**20:,.0f} MiB" if peaks else "-"
