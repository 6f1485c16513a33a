"""Cells of all seeds and methods become rows: one per method, budget, task, length and metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from attnpatch.evaluation.cells import OK, digest
from attnpatch.evaluation.metrics import Metric
from attnpatch.evaluation.statistics import FEWEST, SMALL, Interval, mcnemar, standard_deviation
from attnpatch.evaluation.task_metrics import is_neutral, lower_is_better, metric_of

Columns = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """One line of the results.

    config: see `options_of`, without the seed drawn for a cell. length: None where documents are as long as they are.
    value, low, high: over documents, scores averaged over seeds first; a metric without a score per document has no
    interval. delta*: paired difference to stock on the same documents. p: exact McNemar, for 0/1 scores of a single
    seed. sd: over seeds. mean_keys: measured, per prefill query. best: better than every other method at this budget,
    with paired intervals that exclude 0. omega: share of (prompt, layer) pairs that went sparse, for methods that
    route layers. documents: pictures, where the task has some. detail: left out of the short tables.
    """

    method: str
    budget: int | None
    config: dict[str, Any]
    task: str
    length: int | None
    metric: str
    chance: float | None
    value: float
    low: float | None
    high: float | None
    delta: float | None
    delta_low: float | None
    delta_high: float | None
    p: float | None
    sd: float | None
    seeds: int
    documents: int
    mean_keys: float | None
    decode_mean_keys: float | None
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    peak_memory: int | None
    small: bool
    best: bool = False
    omega: float | None = None
    detail: bool = False

    @property
    def group(self) -> tuple[str, int | None, int | None]:
        return self.method, self.budget, self.length

    @property
    def name(self) -> str:
        """`sliding @64`; the method alone where it ran as configured."""
        return self.method if self.budget is None else f"{self.method} @{self.budget}"

    @property
    def significant(self) -> bool:
        """The interval of the difference to stock excludes 0, and there are enough documents to say so."""
        return self.documents >= FEWEST and self.delta_low is not None and (self.delta_low > 0 or self.delta_high < 0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rows(cells: Iterable[dict[str, Any]]) -> list[Row]:
    """All rows, in the order of the cells."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for cell in cells:
        if cell["status"] == OK:
            groups.setdefault(_group(cell), []).append(cell)
    stock = {key[2:]: group for key, group in groups.items() if group[0]["method"]["name"] == "stock"}
    found = []
    for key, group in groups.items():
        found += [_row(group, name, stock.get(key[2:])) for name in group[0]["metrics"]]
    return _mark_best(found, groups)


def by_length(length: int | None) -> tuple[bool, int]:
    """Sort key: lengths ascending, documents of their own length last."""
    return length is None, length or 0


def length_text(length: int | None) -> str:
    """`512 tokens`, for titles."""
    return "documents of their own length" if length is None else f"{length} tokens"


def options_of(method: dict[str, Any]) -> dict[str, Any] | None:
    """All options of a cell's method. Those of a companion stand for it where it runs alone, and where it runs beside
    a method both have theirs under their names.
    """
    companion = method.get("companion")
    if companion is None:
        return method["config"]
    if companion["name"] == method["name"]:
        return companion["options"]
    return {method["name"]: method["config"], companion["name"]: companion["options"]}


def _without_seed(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "seed"}


def _group(cell: dict[str, Any]) -> tuple:
    """Method, budget, then what makes documents comparable: model, task, length, documents."""
    return (
        cell["method"]["label"],
        cell["budget"]["target"],
        digest(cell["model"]),
        cell["task"]["name"],
        cell["length"],
        cell["task"]["documents"],
    )


def averaged(group: list[dict[str, Any]], name: str) -> Columns:
    """Per-document sums and weights, averaged over the cells (seeds) of a group."""
    columns = [cell["scores"][name] for cell in group]
    return {
        part: [fmean(values) for values in zip(*(one[part] for one in columns), strict=True)]
        for part in ("sums", "weights")
    }


def paired_delta(metric: Metric, columns: Columns, base: Columns) -> Interval:
    return metric.delta(columns["sums"], columns["weights"], base["sums"], base["weights"])


def _row(group: list[dict[str, Any]], name: str, stock: list[dict[str, Any]] | None) -> Row:
    first = group[0]
    base = None if stock is group else stock
    interval, delta, p = _compared(group, base, name) if name in first["scores"] else _bare(group, base, name)
    units = len(set(first["images"])) if first.get("images") else len(first["documents"])
    return Row(
        method=first["method"]["label"],
        budget=first["budget"]["target"],
        config=options_of({**first["method"], "config": _without_seed(first["method"]["config"])}),
        task=first["task"]["name"],
        length=first["length"],
        metric=name,
        chance=first["task"]["chance"] if name == "accuracy" else None,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        delta=delta.value if delta else None,
        delta_low=delta.low if delta else None,
        delta_high=delta.high if delta else None,
        p=p,
        sd=standard_deviation([cell["metrics"][name]["value"] for cell in group]),
        seeds=len(group),
        documents=units,
        mean_keys=_mean(cell["budget"]["mean_keys"] for cell in group),
        decode_mean_keys=_mean(cell["budget"]["decode_mean_keys"] for cell in group),
        prefill_tokens_per_s=_speed(group, "prefill"),
        decode_tokens_per_s=_speed(group, "decode"),
        peak_memory=_peak(group),
        small=units < SMALL,
        omega=_mean(cell.get("omega") for cell in group),
        detail=bool(first["scores"].get(name, {}).get("detail")),
    )


def _compared(group, stock, name: str) -> tuple[Interval, Interval | None, float | None]:
    """Value, difference to stock and McNemar's p, from scores per document."""
    metric, columns = metric_of(group[0], name), averaged(group, name)
    interval = metric.interval(columns["sums"], columns["weights"])
    if stock is None or name not in stock[0]["scores"]:
        return interval, None, None
    base = averaged(stock, name)
    paired = metric.kind == "mean" and len(group) == 1
    p = mcnemar(*zip(*_ratios(columns, base), strict=True)) if paired else None
    return interval, paired_delta(metric, columns, base), p


def _bare(group, stock, name: str) -> tuple[Interval, Interval | None, None]:
    """Value and difference of a metric that has no score per document, without intervals."""
    value = fmean(cell["metrics"][name]["value"] for cell in group)
    if stock is None or name not in stock[0]["metrics"]:
        return Interval(value, None, None), None, None
    base = fmean(cell["metrics"][name]["value"] for cell in stock)
    return Interval(value, None, None), Interval(value - base, None, None), None


def _mark_best(found: list[Row], groups: dict[tuple, list[dict[str, Any]]]) -> list[Row]:
    """Mark the best sparse method of a budget where it beats each rival by a paired interval that excludes 0."""
    rivals: dict[tuple, list[Row]] = {}
    for row in found:
        if row.budget is not None and row.low is not None and row.documents >= FEWEST:
            rivals.setdefault((row.budget, row.task, row.length, row.metric), []).append(row)
    cells = {(*key[:2], key[3], key[4]): group for key, group in groups.items()}
    best = set()
    for (budget, task, length, name), competing in rivals.items():
        first = cells[competing[0].method, budget, task, length][0]
        if is_neutral(first, name):
            continue
        metric = metric_of(first, name)
        sign = -1 if lower_is_better(metric) else 1
        lead = max(competing, key=lambda row: sign * row.value)
        own = averaged(cells[lead.method, budget, task, length], name)
        others = [row for row in competing if row is not lead]
        deltas = [paired_delta(metric, own, averaged(cells[row.method, budget, task, length], name)) for row in others]
        if deltas and all(delta.excludes_zero for delta in deltas):
            best.add(id(lead))
    return [Row(**{**asdict(row), "best": True}) if id(row) in best else row for row in found]


def _ratios(columns: Columns, base: Columns) -> list[tuple[float, float]]:
    """Both scores of every document that has both."""
    sides = zip(columns["sums"], columns["weights"], base["sums"], base["weights"], strict=True)
    return [(s / w, t / v) for s, w, t, v in sides if w > 0 and v > 0]


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _speed(group: list[dict[str, Any]], phase: str) -> float | None:
    rates = [cell["speed"][phase]["tokens_per_s"] for cell in group if cell["speed"][phase]]
    return median(rates) if rates else None


def _peak(group: list[dict[str, Any]]) -> int | None:
    peaks = [max(cell["peak_memory"].values()) for cell in group if cell["peak_memory"]]
    return max(peaks) if peaks else None
