"""Questions about one picture are resampled together, and parts of a task are put together resample by resample."""

from __future__ import annotations

import numpy as np
import pytest

from attnpatch.evaluation.statistics import paired_ratio, ratio_interval, resamples
from attnpatch.evaluation.task_metrics import metric_of


def cell(images=None, parts=None, **columns):
    return {"scores": {"m": columns}, "images": images, "strata": parts}


def test_questions_about_one_picture_move_together():
    sums, weights = [1, 1, 0, 1, 0, 0], [1] * 6
    images = ["a", "a", "b", "b", "c", "c"]
    found = metric_of(cell(images, kind="mean", sums=sums, weights=weights), "m").interval(sums, weights)
    direct = ratio_interval([2, 1, 0], [2, 2, 2])
    assert found == direct
    assert found.value == 0.5
    alone = metric_of(cell(kind="mean", sums=sums, weights=weights), "m").interval(sums, weights)
    assert found.high - found.low > alone.high - alone.low  # three pictures tell less than six documents would


def test_a_ratio_over_pictures_in_percent():
    sums, weights, images = [0, 2, 1], [3, 2, 0], ["x", "y", "x"]
    metric = metric_of(cell(images, kind="ratio", scale=100.0, sums=sums, weights=weights), "m")
    assert metric.interval(sums, weights).value == pytest.approx(60)
    delta = metric.delta(sums, weights, [1, 2, 1], weights)
    expected = paired_ratio([1, 2], [3, 2], [2, 2], [3, 2])
    assert delta.value == pytest.approx(100 * expected.value)
    assert (delta.low, delta.high) == (pytest.approx(100 * expected.low), pytest.approx(100 * expected.high))
    same = metric.delta(sums, weights, sums, weights)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_strata(how):
    images, strata = ["a", "b", "c", "a", "b", "c", "a"], ["r"] * 3 + ["s"] * 3 + ["other"]
    sums, weights = [1, 0, 1, 2, 2, 0, 9], [1, 1, 2, 2, 2, 1, 9]
    given = cell(images, strata, kind="ratio", strata=how, within=["r", "s"], sums=sums, weights=weights)
    metric = metric_of(given, "m")
    value = 2 / 4 + 4 / 5
    assert metric.value(sums, weights) == pytest.approx(value if how == "sum" else value / 2)
    counts = resamples(3)
    first = (counts @ [1, 0, 1]) / (counts @ [1, 1, 2])
    second = (counts @ [2, 2, 0]) / (counts @ [2, 2, 1])
    draws = (first + second) / (1 if how == "sum" else 2)
    interval = metric.interval(sums, weights)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]))


def test_nothing_to_count_is_zero():
    metric = metric_of(cell(["a", "b"], kind="ratio", sums=[0, 0], weights=[0, 0]), "m")
    found = metric.interval([0, 0], [0, 0])
    assert (found.value, found.low) == (0, 0)
    assert found.high > 0  # two pictures are no certainty
    assert metric.delta([0, 0], [0, 0], [0, 0], [0, 0]).value == 0


def test_documents_without_a_value_are_left_out_on_both_sides():
    metric = metric_of(cell(["a", "b", "c"], kind="mean", sums=[1, 0, 0], weights=[1, 1, 0]), "m")
    assert metric.delta([1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]).value == 1  # only a has both
