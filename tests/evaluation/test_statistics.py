"""Intervals and tests against numbers worked out by hand or by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attnpatch.evaluation import statistics as st


def test_wilson():
    interval = st.wilson(8, 10)  # the textbook example
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert st.wilson(10, 10).high == 1.0
    assert st.wilson(0, 10).low == 0.0
    assert st.wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)


def test_mean_of_zeros_and_ones_is_wilson():
    assert st.mean_interval([1] * 8 + [0] * 2) == st.wilson(8, 10)


def test_equal_scores_do_not_claim_certainty():
    interval = st.mean_interval([0.75] * 16)
    assert interval.value == 0.75
    assert interval.low < 0.55
    assert interval.high > 0.88


def test_bootstrap_mean_matches_the_normal_interval():
    scores = np.random.default_rng(1).uniform(size=400)
    interval = st.mean_interval(scores)
    half = 1.96 * scores.std() / 20
    assert (interval.low, interval.high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.003)


def test_same_scores_give_no_difference():
    interval = st.paired_mean([1, 0, 0.5], [1, 0, 0.5])
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)
    assert not interval.excludes_zero


def test_paired_is_tighter_than_unpaired():
    rng = np.random.default_rng(0)
    base = rng.uniform(size=50)
    interval = st.paired_mean(base + 0.1, base)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.1, 0.1, 0.1))
    assert interval.excludes_zero


def test_perplexity_is_recomputed_on_the_corpus():
    interval = st.ratio_interval([2.0, 6.0], [1, 3], exponential=True)
    assert interval.value == pytest.approx(math.exp(8 / 4))
    # The resamples are (first twice), (second twice), (both); the outer two are exp(2) here as well.
    assert (interval.low, interval.high) == pytest.approx((math.exp(2), math.exp(2)))


def test_paired_perplexity():
    interval = st.paired_ratio([2.0, 4.0], [2, 2], [1.0, 1.0], [2, 2], exponential=True)
    assert interval.value == pytest.approx(math.exp(1.5) - math.exp(0.5))
    assert interval.low == pytest.approx(math.exp(1.0) - math.exp(0.5))
    assert interval.high == pytest.approx(math.exp(2.0) - math.exp(0.5))


def test_documents_without_weight_are_harmless():
    interval = st.ratio_interval([0.0, 3.0], [0, 3], exponential=True)
    assert interval.value == pytest.approx(math.e)
    assert math.isfinite(interval.low)


def test_mcnemar_by_hand_and_by_scipy():
    # 1 win, 5 losses: 2 * (C(6,0) + C(6,1)) / 2**6
    scores, base = [1, 0, 0, 0, 0, 0, 1, 0], [0, 1, 1, 1, 1, 1, 1, 0]
    assert st.mcnemar(scores, base) == pytest.approx(14 / 64)
    scipy = pytest.importorskip("scipy.stats")
    assert st.mcnemar(scores, base) == pytest.approx(scipy.binomtest(1, 6).pvalue)
    assert st.mcnemar([1, 1], [1, 1]) == 1.0
    assert st.mcnemar([0.5], [1]) is None


def test_standard_deviation():
    assert st.standard_deviation([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert st.standard_deviation([1.0]) is None


def test_numbers_repeat():
    scores = [0.1, 0.7, 0.3, 0.9]
    first = st.mean_interval(scores)
    st.resamples.cache_clear()
    assert st.mean_interval(scores) == first
