"""Intervals and paired tests. Every random step has a fixed seed, so the same cells give the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 10_000
SMALL = 30  # fewer documents than this are marked "n small"
FEWEST = 8  # a bootstrap over fewer documents says nothing: no difference is marked
_Z = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """The same in other units."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def wilson(successes: float, n: int) -> Interval:
    """Wilson score interval of a proportion; `successes` may be fractional (then it is conservative)."""
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    p = successes / n
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    # Rounding must not push the interval off the value at 0 and 1.
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


@lru_cache(maxsize=32)
def resamples(n: int, count: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of `n` documents is drawn, `[count, n]`: a bootstrap as a matrix product."""
    return np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)


def percentile_interval(value: float, draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def mean_interval(scores: Sequence[float]) -> Interval:
    """Mean of per-document scores in [0, 1].

    Wilson where all scores are 0 or 1, or all are the same (resampling equal values would claim certainty);
    the percentile bootstrap over documents elsewhere.
    """
    values = np.asarray(scores, dtype=np.float64)
    n = len(values)
    if np.isin(values, (0.0, 1.0)).all() or np.ptp(values) == 0:
        return wilson(float(values.sum()), n)
    return percentile_interval(values.mean(), resamples(n) @ values / n)


def ratio_interval(sums, weights, exponential: bool = False, total: bool = False) -> Interval:
    """Corpus ratio sum(sums) / sum(weights), recomputed per resample; with `exponential`, exp of it (perplexity).

    Sums and weights of shape `[strata, n]` give a ratio per stratum, and their mean, or with `total` their sum.
    """
    value, draws = _ratio(sums, weights, exponential, total)
    return percentile_interval(value, draws)


def paired_mean(scores: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Mean difference of per-document scores; both sides hold the same documents in the same order."""
    difference = np.asarray(scores, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    return percentile_interval(difference.mean(), resamples(len(difference)) @ difference / len(difference))


def paired_ratio(sums, weights, base_sums, base_weights, exponential: bool = False, total: bool = False) -> Interval:
    """Difference of two corpus ratios over the same documents, both recomputed on every resample."""
    one = _ratio(sums, weights, exponential, total)
    two = _ratio(base_sums, base_weights, exponential, total)
    return percentile_interval(one[0] - two[0], one[1] - two[1])


def _ratio(sums, weights, exponential: bool, total: bool) -> tuple[float, np.ndarray]:
    """The ratio, and that of every resample."""
    top, bottom = (np.atleast_2d(np.asarray(part, dtype=np.float64)) for part in (sums, weights))
    counts = resamples(top.shape[1])
    # A ratio of nothing is 0: nothing was answered yes, no object was named.
    values = np.divide(top.sum(1), bottom.sum(1), out=np.zeros(len(top)), where=bottom.sum(1) > 0)
    # A document may hold no token of a slice (weight 0); a resample of only such documents falls back to the corpus.
    below = counts @ bottom.T
    draws = np.divide(counts @ top.T, below, out=np.tile(values, (len(counts), 1)), where=below > 0)
    together = np.sum if total else np.mean
    value, draws = together(values), together(draws, axis=1)
    return (float(np.exp(value)), np.exp(draws)) if exponential else (float(value), draws)


def mcnemar(scores: Sequence[float], baseline: Sequence[float]) -> float | None:
    """Exact two-sided McNemar p-value of paired 0/1 scores; None if a score is neither 0 nor 1."""
    if not all(score in (0, 1) for score in (*scores, *baseline)):
        return None
    wins = sum(1 for a, b in zip(scores, baseline, strict=True) if a > b)
    losses = sum(1 for a, b in zip(scores, baseline, strict=True) if a < b)
    n, k = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None below two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
