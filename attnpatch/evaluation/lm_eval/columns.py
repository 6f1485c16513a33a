"""lm-eval's metrics as sums and weights per document, so that they can be resampled and paired.

A metric becomes such columns only if they give lm-eval's own aggregate to the last digits; any other is kept as one
value without an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Column = dict[str, Any]


def columns(task, raw: dict[tuple[str, str], list]) -> tuple[dict[str, Column], dict[str, float]]:
    """`({metric: columns}, {metric: value})`: metrics with scores per document, and those of the corpus only.

    raw: per metric and filter one value per document; None where a document has none. RULER marks documents of
    another length with -1; they have none either.

    Raises:
        FloatingPointError: an aggregate that is not finite.
    """
    scores, values = {}, {}
    several = len({name for _, name in raw}) > 1
    for (metric, filter_name), found in raw.items():
        is_length = str(metric).isdigit()
        items = [None if value is None or (is_length and value == -1) else value for value in found]
        present = [value for value in items if value is not None]
        if not present or metric == "bypass":
            continue
        aggregate, given = _aggregate(task, metric)
        value = float(aggregate(present))
        if not math.isfinite(value):
            raise FloatingPointError(f"{metric} is not finite: the model's logits overflow; use --dtype float32")
        name = "score" if is_length else str(metric)
        name += f" ({filter_name})" if several or filter_name != "none" else ""
        made = _column(given, items)
        if made is None or not math.isclose(_value(made), value, rel_tol=1e-9, abs_tol=1e-12):
            values[name] = value
            continue
        made["lower_is_better"] = task.higher_is_better().get(metric, True) is False
        scores[name] = made
    return scores, values


def _aggregate(task, metric: str) -> tuple[Callable, str]:
    """lm-eval's aggregation of a metric and its registered name."""
    from lm_eval.api.metrics import mean
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    function = task.aggregation().get(metric, mean)
    names = [name for name in AGGREGATION_REGISTRY if AGGREGATION_REGISTRY[name] is function]
    return function, names[0] if names else "mean"


def _column(aggregation: str, items: list) -> Column | None:
    """Sums and weights for an aggregation; weight 0 where a document has no value."""
    try:
        pairs = [(0.0, 0.0) if item is None else _PARTS.get(aggregation, _mean)(item) for item in items]
    except (TypeError, ValueError):
        return None
    if aggregation in ("mean", "nanmean", "brier_score"):
        pairs = [(0.0, 0.0) if math.isnan(top) else (top, bottom) for top, bottom in pairs]
    kind = {"perplexity": "perplexity", "weighted_perplexity": "perplexity", "bits_per_byte": "ratio", "f1": "ratio"}
    tops, bottoms = zip(*pairs, strict=True)
    return {"sums": list(tops), "weights": list(bottoms), "kind": kind.get(aggregation, "mean")}


def _mean(item: Any) -> tuple[float, float]:
    return float(item), 1.0


def _weighted(item: tuple[float, float]) -> tuple[float, float]:
    loglikelihood, weight = item
    return -float(loglikelihood), float(weight)


def _bits(item: tuple[float, float]) -> tuple[float, float]:
    loglikelihood, weight = item
    return -float(loglikelihood) / math.log(2), float(weight)


def _f1(item: tuple[int, int]) -> tuple[float, float]:
    """Of the positive class: 2 tp / (2 tp + fp + fn), a ratio of sums over documents."""
    gold, predicted = (int(value) for value in item)
    return 2.0 * (gold == predicted == 1), float((gold == 1) + (predicted == 1))


def _brier(item: tuple[int, Any]) -> tuple[float, float]:
    gold, probabilities = item
    return sum((float(p) - (index == gold)) ** 2 for index, p in enumerate(probabilities)), 1.0


_PARTS: dict[str, Callable[[Any], tuple[float, float]]] = {
    "perplexity": lambda item: (-float(item), 1.0),
    "weighted_perplexity": _weighted,
    "bits_per_byte": _bits,
    "f1": _f1,
    "brier_score": _brier,
}


def _value(made: Column) -> float:
    ratio = math.fsum(made["sums"]) / bottom if (bottom := math.fsum(made["weights"])) else math.nan
    return math.exp(ratio) if made["kind"] == "perplexity" else ratio
