"""Metrics that tasks bring along: what is known of them stands in the cell, beside their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnpatch.evaluation.metrics import METRICS, Metric
from attnpatch.evaluation.statistics import (
    Interval,
    mean_interval,
    paired_mean,
    paired_ratio,
    percentile_interval,
    ratio_interval,
    resamples,
    wilson,
)


@dataclass(frozen=True)
class TaskMetric(Metric):
    """A metric on any scale.

    kind: "mean", "ratio" (sum of sums over sum of weights) or "perplexity" (exp of that). Weight 0: the document has
    no value; for a mean it is then left out, on both sides of a difference.

    images: the picture that each document is about. Questions about one picture are not independent, so pictures are
    resampled. strata: the part of the task that each document belongs to; the metric is computed per part, and is
    their mean, or their sum with `total`.
    """

    lower_is_better: bool = False
    images: tuple[str, ...] | None = None
    strata: tuple[str | None, ...] | None = None  # None: not part of the metric
    total: bool = False

    def value(self, sums: Sequence[float], weights: Sequence[float]) -> float:
        """The metric without an interval. 0 where there is nothing to count."""
        top, bottom = self._arranged(*self._means(sums, weights))
        ratios = np.divide(top.sum(1), bottom.sum(1), out=np.zeros(len(top)), where=bottom.sum(1) > 0)
        return float(ratios.sum() if self.total else ratios.mean()) * self.scale

    def interval(self, sums: Sequence[float], weights: Sequence[float]) -> Interval:
        if self._plain:
            return self._by_document(sums, weights).scaled(self.scale)
        top, bottom = self._arranged(*self._means(sums, weights))
        found = ratio_interval(top, bottom, self.kind == "perplexity", self.total)
        if len(top) == 1 and found.low == found.high and found.value in (0.0, 1.0) and self.kind != "perplexity":
            # Resampling equal values would claim certainty.
            found = wilson(found.value * top.shape[1], top.shape[1])
        return found.scaled(self.scale)

    def delta(self, sums, weights, base_sums, base_weights) -> Interval:
        if self.kind == "mean":
            both = [w > 0 and v > 0 for w, v in zip(weights, base_weights, strict=True)]
            if self._plain:
                rows = zip(sums, weights, base_sums, base_weights, strict=True)
                pairs = [(s / w, t / v) for (s, w, t, v), there in zip(rows, both, strict=True) if there]
                return paired_mean([one for one, _ in pairs], [two for _, two in pairs]).scaled(self.scale)
            weights, base_weights = (np.multiply(side, both) for side in (weights, base_weights))
        ours, base = (self._arranged(*self._means(*side)) for side in ((sums, weights), (base_sums, base_weights)))
        return paired_ratio(*ours, *base, self.kind == "perplexity", self.total).scaled(self.scale)

    @property
    def _plain(self) -> bool:
        return self.images is None and self.strata is None

    def _by_document(self, sums: Sequence[float], weights: Sequence[float]) -> Interval:
        if self.kind != "mean":
            return ratio_interval(sums, weights, exponential=self.kind == "perplexity")
        values = [s / w for s, w in zip(sums, weights, strict=True) if w > 0]
        if min(values) >= 0 and max(values) <= 1:
            return mean_interval(values)
        return percentile_interval(np.mean(values), resamples(len(values)) @ np.asarray(values) / len(values))

    def _means(self, sums: Sequence[float], weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Sums and weights under which a mean of documents is a ratio too."""
        top, bottom = np.asarray(sums, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        if self.kind != "mean":
            return top, bottom
        return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0), (bottom > 0).astype(np.float64)

    def _arranged(self, top: np.ndarray, bottom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`[strata, pictures]`: everything about one picture added up."""
        _, units = np.unique(self.images, return_inverse=True) if self.images else (None, np.arange(len(top)))
        parts = self.strata or (None,) * len(top)
        names = [name for name in dict.fromkeys(parts) if name is not None] or [None]
        arranged = []
        for column in (top, bottom):
            masks = (np.asarray([part == name for part in parts]) for name in names)
            arranged.append([np.bincount(units, column * mask, minlength=max(units, default=0) + 1) for mask in masks])
        return np.asarray(arranged[0]), np.asarray(arranged[1])


def metric_of(cell: dict[str, Any], name: str) -> Metric:
    """The metric behind `cell["scores"][name]`."""
    columns = cell["scores"].get(name, {})
    if "kind" not in columns:
        return METRICS[name]
    return _metric(name, columns, cell.get("images"), cell.get("strata"))


def value_of(columns: dict[str, Any], strata: Sequence[str] | None = None) -> float:
    """The value of one metric from its sums and weights alone; `strata`: the part that each document belongs to."""
    return _metric("", columns, None, strata).value(columns["sums"], columns["weights"])


def _metric(name: str, columns: dict[str, Any], images, strata) -> TaskMetric:
    within = columns.get("within")
    parts = strata if strata is not None and columns.get("strata") else None
    return TaskMetric(
        name,
        name,
        columns["kind"],
        columns.get("scale", 1.0),
        bool(columns.get("lower_is_better")),
        tuple(images) if images else None,
        None if parts is None else tuple(part if within is None or part in within else None for part in parts),
        columns.get("strata") == "sum",
    )


def is_neutral(cell: dict[str, Any], name: str) -> bool:
    """True for a metric that says nothing of better or worse, such as the length of captions."""
    return bool(cell["scores"].get(name, {}).get("neutral"))


def lower_is_better(metric: Metric) -> bool:
    """True where a smaller value is the better one."""
    return metric.kind == "perplexity" or getattr(metric, "lower_is_better", False)
