"""lm-eval's metrics as sums and weights: the same aggregate, or no interval at all."""

from __future__ import annotations

import math
import random

import pytest
from lm_eval.api.registry import AGGREGATION_REGISTRY

from attnpatch.evaluation.lm_eval.columns import columns
from attnpatch.evaluation.statistics import SMALL
from attnpatch.evaluation.task_metrics import TaskMetric, metric_of


class Task:
    """The two things `columns` asks a task."""

    def __init__(self, aggregations, lower=()):
        self.aggregations, self.lower = aggregations, lower

    def aggregation(self):
        return {
            name: AGGREGATION_REGISTRY[value] if isinstance(value, str) else value
            for name, value in self.aggregations.items()
        }

    def higher_is_better(self):
        return {name: name not in self.lower for name in self.aggregations}


RNG = random.Random(0)
ITEMS = {
    "mean": [RNG.random() for _ in range(40)],
    "nanmean": [math.nan if i % 5 == 0 else RNG.random() for i in range(40)],
    "perplexity": [-3 * RNG.random() for _ in range(40)],
    "weighted_perplexity": [(-30 * RNG.random(), RNG.randint(5, 20)) for _ in range(40)],
    "bits_per_byte": [(-30 * RNG.random(), RNG.randint(5, 20)) for _ in range(40)],
    "f1": [(RNG.randint(0, 1), RNG.randint(0, 1)) for _ in range(40)],
    "brier_score": [(RNG.randint(0, 2), (0.2, 0.5, 0.3)) for _ in range(40)],
}


@pytest.mark.parametrize("aggregation", ITEMS)
def test_columns_give_lm_evals_aggregate(aggregation):
    items = ITEMS[aggregation]
    scores, values = columns(Task({"metric": aggregation}), {("metric", "none"): items})
    assert not values
    interval = metric_of({"scores": scores}, "metric").interval(scores["metric"]["sums"], scores["metric"]["weights"])
    assert interval.value == pytest.approx(float(AGGREGATION_REGISTRY[aggregation](items)))
    assert interval.low < interval.value < interval.high


@pytest.mark.parametrize(
    "aggregation, items",
    [
        ("matthews_corrcoef", ITEMS["f1"]),
        ("median", ITEMS["mean"]),
        (lambda items: 100 * sum(items) / len(items), ITEMS["mean"]),  # a task's own
        ("f1", [(2, 2), (2, 2), (1, 1), (1, 1), (2, 1)]),  # 1 is the positive class, 2 counts for nothing
    ],
    ids=["mcc", "median", "scaled mean", "other classes"],
)
def test_what_is_no_sum_over_documents_has_a_value_only(aggregation, items):
    scores, values = columns(Task({"metric": aggregation}), {("metric", "none"): items})
    expected = AGGREGATION_REGISTRY[aggregation] if isinstance(aggregation, str) else aggregation
    found = values.get("metric", sum(scores["metric"]["sums"]) / sum(scores["metric"]["weights"]) if scores else None)
    assert found == pytest.approx(float(expected(items)))
    assert bool(values) is not (aggregation == "f1")


def test_filters_and_lengths_in_names():
    raw = {("exact_match", "strict"): [1.0, 0.0], ("exact_match", "flexible"): [1.0, 1.0]}
    scores, _ = columns(Task({"exact_match": "mean"}), raw)
    assert set(scores) == {"exact_match (strict)", "exact_match (flexible)"}
    scores, _ = columns(Task({"4096": "mean"}), {("4096", "none"): [1.0, 0.5]})
    assert set(scores) == {"score"}


def test_rulers_minus_one_is_no_score():
    def aggregate(items):
        return sum(x for x in items if x != -1) / len([x for x in items if x != -1])

    raw = {("4096", "none"): [-1, -1], ("8192", "none"): [1.0, -1]}
    scores, values = columns(Task({"4096": aggregate, "8192": aggregate}), raw)
    assert scores["score"]["sums"] == [1.0, 0.0]
    assert scores["score"]["weights"] == [1.0, 0.0]
    assert (list(scores), values) == (["score"], {})


def test_minus_one_stays_a_score_elsewhere():
    scores, _ = columns(Task({"margin": "mean"}), {("margin", "none"): [-1.0, 1.0, 0.5]})
    assert scores["margin"]["sums"] == [-1.0, 1.0, 0.5]


def test_documents_without_a_value_keep_their_place():
    scores, _ = columns(Task({"acc": "mean"}), {("acc", "none"): [1.0, None, 0.0]})
    assert (scores["acc"]["sums"], scores["acc"]["weights"]) == ([1.0, 0.0, 0.0], [1.0, 0.0, 1.0])
    metric = metric_of({"scores": scores}, "acc")
    assert metric.interval(**{k: scores["acc"][k] for k in ("sums", "weights")}).value == 0.5
    # Paired where both sides have a value: the first document only.
    delta = metric.delta(scores["acc"]["sums"], scores["acc"]["weights"], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0])
    assert delta.value == 1.0


def test_an_aggregate_that_is_not_finite_fails():
    with pytest.raises(FloatingPointError, match="perplexity is not finite"):
        columns(Task({"perplexity": "perplexity"}), {("perplexity", "none"): [-math.inf, -1.0]})


def test_lower_is_better_is_kept():
    scores, _ = columns(Task({"brier": "mean"}, lower=["brier"]), {("brier", "none"): [0.5, 0.2]})
    assert scores["brier"]["lower_is_better"] is True


def test_equal_scores_on_another_scale_have_an_interval_without_width():
    interval = TaskMetric("rouge", "rouge", "mean").interval([40.0] * SMALL, [1.0] * SMALL)
    assert (interval.value, interval.low, interval.high) == (40.0, 40.0, 40.0)
