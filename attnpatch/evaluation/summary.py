"""Cells of all seeds and methods become rows: one per method, budget, task, length and metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from attnpatch.evaluation.cells import OK, digest
from attnpatch.evaluation.metrics import METRICS, Metric
from attnpatch.evaluation.statistics import SMALL, Interval, mcnemar, standard_deviation

Columns = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """One line of the results.

    value, low, high: over documents, scores averaged over seeds first. delta*: paired difference to stock on the same
    documents. p: exact McNemar, for 0/1 scores of a single seed. sd: over seeds. mean_keys: measured, per prefill
    query. best: better than every other method at this budget, with paired intervals that exclude 0.
    """

    method: str
    budget: int | None
    config: dict[str, Any]
    task: str
    length: int
    metric: str
    chance: float | None
    value: float
    low: float
    high: float
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

    @property
    def group(self) -> tuple[str, int | None, int]:
        return self.method, self.budget, self.length

    @property
    def significant(self) -> bool:
        """The interval of the difference to stock excludes 0."""
        return self.delta is not None and (self.delta_low > 0 or self.delta_high < 0)

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
        found += [_row(group, name, stock.get(key[2:])) for name in group[0]["scores"]]
    return _mark_best(found, groups)


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
    """Per-document sums, averaged over the cells (seeds) of a group; weights are the same in all of them."""
    columns = [cell["scores"][name] for cell in group]
    sums = [fmean(values) for values in zip(*(one["sums"] for one in columns), strict=True)]
    return {"sums": sums, "weights": columns[0]["weights"]}


def paired_delta(metric: Metric, columns: Columns, base: Columns) -> Interval:
    return metric.delta(columns["sums"], columns["weights"], base["sums"], base["weights"])


def _row(group: list[dict[str, Any]], name: str, stock: list[dict[str, Any]] | None) -> Row:
    first, metric = group[0], METRICS[name]
    columns = averaged(group, name)
    interval = metric.interval(columns["sums"], columns["weights"])
    delta = p = None
    if stock is not None and stock is not group:
        base = averaged(stock, name)
        delta = paired_delta(metric, columns, base)
        if metric.kind == "mean" and len(group) == 1:
            p = mcnemar(_ratios(columns), _ratios(base))
    return Row(
        method=first["method"]["label"],
        budget=first["budget"]["target"],
        config={key: value for key, value in first["method"]["config"].items() if key != "seed"},
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
        documents=len(first["documents"]),
        mean_keys=_mean(cell["budget"]["mean_keys"] for cell in group),
        decode_mean_keys=_mean(cell["budget"]["decode_mean_keys"] for cell in group),
        prefill_tokens_per_s=_speed(group, "prefill"),
        decode_tokens_per_s=_speed(group, "decode"),
        peak_memory=_peak(group),
        small=len(first["documents"]) < SMALL,
    )


def _mark_best(found: list[Row], groups: dict[tuple, list[dict[str, Any]]]) -> list[Row]:
    """Mark the best sparse method of a budget where it beats each rival by a paired interval that excludes 0."""
    rivals: dict[tuple, list[Row]] = {}
    for row in found:
        if row.budget is not None:
            rivals.setdefault((row.budget, row.task, row.length, row.metric), []).append(row)
    cells = {(*key[:2], key[3], key[4]): group for key, group in groups.items()}
    best = set()
    for (budget, task, length, name), competing in rivals.items():
        metric = METRICS[name]
        sign = -1 if metric.kind == "perplexity" else 1
        lead = max(competing, key=lambda row: sign * row.value)
        own = averaged(cells[lead.method, budget, task, length], name)
        others = [row for row in competing if row is not lead]
        deltas = [paired_delta(metric, own, averaged(cells[row.method, budget, task, length], name)) for row in others]
        if deltas and all(delta.excludes_zero for delta in deltas):
            best.add(id(lead))
    return [Row(**{**asdict(row), "best": True}) if id(row) in best else row for row in found]


def _ratios(columns: Columns) -> list[float]:
    return [s / w for s, w in zip(columns["sums"], columns["weights"], strict=True)]


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _speed(group: list[dict[str, Any]], phase: str) -> float | None:
    rates = [cell["speed"][phase]["tokens_per_s"] for cell in group if cell["speed"][phase]]
    return median(rates) if rates else None


def _peak(group: list[dict[str, Any]]) -> int | None:
    peaks = [max(cell["peak_memory"].values()) for cell in group if cell["peak_memory"]]
    return max(peaks) if peaks else None
