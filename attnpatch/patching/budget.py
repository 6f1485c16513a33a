"""The budget actually spent: visible (query, key) pairs, counted exactly and outside the forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from attnpatch.kernels import Rule

_PENDING = 512  # tallies that a site keeps before it counts them


class Tally:
    """The query rows of one call under one rule; their pairs are counted when somebody asks.

    segments: per batch row (first, last, n): query rows first..last-1 of n tokens. decode: are they behind the prompt.
    """

    __slots__ = ("_counted", "backend", "decode", "rule", "segments")

    def __init__(self, backend: str, rule: Rule, segments: tuple[tuple[int, int, int], ...], decode: bool) -> None:
        self.backend = backend
        self.rule = rule
        self.segments = segments
        self.decode = decode
        self._counted: tuple[float, int] | None = None

    @property
    def pairs_and_queries(self) -> tuple[float, int]:
        """Visible (query, key) pairs, a mean over heads where these differ, and query rows."""
        if self._counted is None:
            same = Counter(self.segments)
            pairs = sum(count * self.rule.pairs(*segment) for segment, count in same.items())
            self._counted = pairs, sum(last - first for first, last, _ in self.segments)
        return self._counted


class SiteStats:
    """Counters of one method at one site. routes: prompts by the way the method sent them, for methods that route."""

    __slots__ = ("_backends", "_counted", "_pending", "cache_bytes_saved", "calls", "routes")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.calls = self.cache_bytes_saved = 0
        self.routes: Counter[str] = Counter()
        self._backends: Counter[str] = Counter()
        self._pending: list[Tally] = []  # counted later: this runs in every layer of every step
        self._counted = {False: [0.0, 0], True: [0.0, 0]}

    def add(self, tally: Tally) -> None:
        """One call."""
        self._pending.append(tally)
        if len(self._pending) >= _PENDING:
            self.settle()

    def settle(self) -> None:
        """Count what has been added so far."""
        pending, self._pending = self._pending, []
        for tally in pending:
            self._backends[tally.backend] += 1
            pairs, queries = tally.pairs_and_queries
            counted = self._counted[tally.decode]
            counted[0] += pairs
            counted[1] += queries

    @property
    def backends(self) -> Counter[str]:
        """Calls so far by the backend they ran on."""
        self.settle()
        return self._backends

    def pairs_and_queries(self, *, decode: bool) -> tuple[float, int]:
        """Visible pairs and query rows so far, of prefill or of decode."""
        self.settle()
        return tuple(self._counted[decode])

    def counts(self) -> dict[str, Any]:
        """Everything counted so far, for `absorb` in another process."""
        return {
            "calls": self.calls,
            "backends": dict(self.backends),
            "routes": dict(self.routes),
            "pairs": [self.pairs_and_queries(decode=decode) for decode in (False, True)],
            "cache_bytes_saved": self.cache_bytes_saved,
        }

    def absorb(self, counts: dict[str, Any]) -> None:
        """Add what another process counted at the same site; its cache is not ours."""
        self.calls += counts["calls"]
        self.backends.update(counts["backends"])
        self.routes.update(counts["routes"])
        for decode, (pairs, queries) in zip((False, True), counts["pairs"], strict=True):
            self._counted[decode][0] += pairs
            self._counted[decode][1] += queries


def mean_keys(stats: Iterable[SiteStats]) -> tuple[float | None, float | None]:
    """Mean visible keys per query over all sites: (prefill, decode); None where nothing ran."""
    stats = list(stats)
    means = []
    for decode in (False, True):
        counts = [one.pairs_and_queries(decode=decode) for one in stats]
        queries = sum(queries for _, queries in counts)
        means.append(sum(pairs for pairs, _ in counts) / queries if queries else None)
    return means[0], means[1]
