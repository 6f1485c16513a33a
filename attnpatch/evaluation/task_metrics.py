"""Metrics that tasks bring along: what is known of them stands in the cell, beside their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnpatch.evaluation.metrics import METRICS, Metric
from attnpatch.evaluation.statistics import Interval, mean_interval, paired_mean, paired_ratio, ratio_interval


@dataclass(frozen=True)
class TaskMetric(Metric):
    """A metric on any scale.

    kind: "mean", "ratio" (sum of sums over sum of weights) or "perplexity" (exp of that). Weight 0: the document has
    no value; for a mean it is then left out, on both sides of a difference.
    """

    lower_is_better: bool = False

    def interval(self, sums: Sequence[float], weights: Sequence[float]) -> Interval:
        if self.kind != "mean":
            return ratio_interval(sums, weights, exponential=self.kind == "perplexity")
        values = [s / w for s, w in zip(sums, weights, strict=True) if w > 0]
        if min(values) >= 0 and max(values) <= 1:
            return mean_interval(values)
        return ratio_interval(values, [1.0] * len(values))

    def delta(self, sums, weights, base_sums, base_weights) -> Interval:
        if self.kind != "mean":
            return paired_ratio(sums, weights, base_sums, base_weights, exponential=self.kind == "perplexity")
        sides = zip(sums, weights, base_sums, base_weights, strict=True)
        pairs = [(s / w, t / v) for s, w, t, v in sides if w > 0 and v > 0]
        return paired_mean([one for one, _ in pairs], [two for _, two in pairs])


def metric_of(cell: dict[str, Any], name: str) -> Metric:
    """The metric behind `cell["scores"][name]`."""
    columns = cell["scores"].get(name, {})
    if "kind" in columns:
        return TaskMetric(name, name, columns["kind"], lower_is_better=bool(columns.get("lower_is_better")))
    return METRICS[name]


def lower_is_better(metric: Metric) -> bool:
    """True where a smaller value is the better one."""
    return metric.kind == "perplexity" or getattr(metric, "lower_is_better", False)
