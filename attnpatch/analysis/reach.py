"""Theoretical reach: which tokens can influence a query at all, through all layers under their rules.

A layer passes token j to token i if i sees j, and every token to itself through the residual stream. Composed from
the last layer down to the first, the visible sets give the tokens whose content can be in the last layer's output at a
query: a window of w over L layers reaches L * (w - 1) tokens back, sinks are always in reach. It is a bound on what
the mask permits, not on what a model has learned. The sets are exact, token by token, in O(layers * n * log n).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attnpatch.kernels import Causal, PermutedBuckets, PermutedWindow, Window
from attnpatch.kernels.rules import Permuted, Rule

LONGEST_BY_PAIRS = 4096  # rules without a formula here are read pair by pair up to this many tokens


def reach(rules: Sequence[Rule], n: int, query: int) -> torch.Tensor:
    """Tokens that can influence the output at `query`: bool `[n]`.

    Args:
        rules: one per layer, the first layer first.
        n: real tokens of the prompt.
        query: index of the query among them.

    Raises:
        ValueError: `query` is outside, or a rule has no formula here and `n` is too long to read it pair by pair.
    """
    if not 0 <= query < n:
        raise ValueError(f"query must be 0 to {n - 1}, got {query}")
    reached = torch.zeros(n, dtype=torch.bool)
    reached[query] = True
    for rule in reversed(rules):
        reached = reached | sources(rule, reached)
    return reached


def sources(rule: Rule, queries: torch.Tensor) -> torch.Tensor:
    """Keys that at least one of `queries` (bool `[n]`) sees under `rule`: bool `[n]`. Raises ValueError as `reach`."""
    n = len(queries)
    if not bool(queries.any()):
        return torch.zeros_like(queries)
    if isinstance(rule, Causal):
        return _later(queries)
    if isinstance(rule, Window):
        return _window(rule, queries)
    if isinstance(rule, (PermutedWindow, PermutedBuckets)):
        return _permuted(rule, queries)
    if n > LONGEST_BY_PAIRS:
        raise ValueError(f"the reach of {type(rule).__name__} is known up to {LONGEST_BY_PAIRS} tokens, got {n}")
    found = torch.zeros_like(queries)
    keys = torch.arange(n)
    for rows in queries.nonzero().split(256):
        found |= rule.visible(rows, keys, n).reshape(-1, n).any(0)
    return found


def _later(queries: torch.Tensor) -> torch.Tensor:
    """Keys with a query at or behind them."""
    return queries.flip(0).cumsum(0).flip(0) > 0


def _near(queries: torch.Tensor, window: int) -> torch.Tensor:
    """Keys with a query at a distance of 0 to window - 1 behind them."""
    n = len(queries)
    total = torch.nn.functional.pad(queries.cumsum(0), (1, 0))
    start = torch.arange(n)
    return total[(start + min(window, n)).clamp(max=n)] > total[start]


def _window(rule: Window, queries: torch.Tensor) -> torch.Tensor:
    reach = rule.reach
    found = _near(queries, rule.window if reach is None else min(rule.window, reach))
    sinks = _later(queries) if reach is None else _near(queries, reach)
    found[: rule.sink] |= sinks[: rule.sink]
    return found


def _permuted(rule: Permuted, queries: torch.Tensor) -> torch.Tensor:
    n = len(queries)
    slots = rule.slots(n)
    latest = torch.where(queries, torch.arange(n), -1)
    found = torch.zeros_like(queries)
    for slot in slots.reshape(-1, n):  # heads: what one of them sees is passed on
        by_slot = torch.full_like(latest, -1).scatter_(0, slot, latest)
        last = _last_by_bucket(rule, by_slot) if isinstance(rule, PermutedBuckets) else _last_by_slot(rule, by_slot)
        found |= last[slot] >= torch.arange(n)  # some query near this slot comes at or behind the key
    found |= _near(queries, rule.local) if rule.local else False
    found[: rule.sink] |= _later(queries)[: rule.sink]
    return found


def _last_by_slot(rule: PermutedWindow, by_slot: torch.Tensor) -> torch.Tensor:
    """Per key slot the last query among those whose window holds it: slots -after .. +before around it."""
    n = len(by_slot)
    width = rule.after + rule.before + 1
    if width >= n and rule.circular:
        return by_slot.max().expand(n)
    after, before = min(rule.after, n), min(rule.before, n)
    if rule.circular:
        padded = torch.cat([by_slot[n - after :], by_slot, by_slot[:before]])
    else:
        padded = torch.nn.functional.pad(by_slot, (after, before), value=-1)
    return _sliding_max(padded, after + before + 1)


def _last_by_bucket(rule: PermutedBuckets, by_slot: torch.Tensor) -> torch.Tensor:
    """Per key slot the last query in its bucket or the `previous` ones behind it."""
    n = len(by_slot)
    size, count = min(rule.size, n), -(-n // min(rule.size, n))
    behind = min(rule.previous, count)
    buckets = torch.nn.functional.pad(by_slot, (0, count * size - n), value=-1).reshape(count, size).amax(1)
    last = _sliding_max(torch.nn.functional.pad(buckets, (0, behind), value=-1), behind + 1)
    return last.repeat_interleave(size)[:n]


def _sliding_max(values: torch.Tensor, width: int) -> torch.Tensor:
    """max(values[i : i + width]) for every i that has so many: by doubling, O(n log width)."""
    out, covered = values, 1
    while 2 * covered <= width:
        out = torch.maximum(out[:-covered], out[covered:])
        covered *= 2
    rest = width - covered
    return torch.maximum(out[: len(out) - rest], out[rest:]) if rest else out
