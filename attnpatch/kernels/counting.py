"""Exact numbers of visible pairs in O(n log n) time and O(n) memory."""

from __future__ import annotations

import torch


def window_pairs(first: int, last: int, window: int, sink: int, reach: int | None) -> int:
    """Visible pairs of query rows first..last-1 under a sliding window with sinks."""
    if last <= first:
        return 0
    i = torch.arange(first, last)
    low = torch.zeros_like(i) if reach is None else (i - reach + 1).clamp(min=0)
    band = torch.maximum(low, i - window + 1)
    sinks = (band.clamp(max=sink) - low).clamp(min=0)
    return int((i - band + 1 + sinks).sum())


def permuted_pairs(slots, first, last, ranges, sink: int, local: int) -> int | float:
    """Visible pairs of a permuted rule for query rows first..last-1.

    slots: [n] or [Hkv, n]; ranges(slot) gives disjoint slot intervals [(low, high), ...] that a query sees.
    With several heads the result is their mean.
    """
    if last <= first:
        return 0
    if slots.ndim == 2:
        counts = [permuted_pairs(one, first, last, ranges, sink, local) for one in slots]
        total = sum(counts)
        return total // len(counts) if total % len(counts) == 0 else total / len(counts)
    token_at = torch.argsort(slots)
    i = torch.arange(first, last)
    # A query always sees itself, the sinks and the local tokens; slot ranges add what lies between the two.
    local = max(local, 1)
    always = torch.minimum(i + 1, torch.full_like(i, sink + local))
    between = torch.zeros_like(i)
    for low, high in ranges(slots[first:last]):
        nearer = count_below(token_at, low, high, i - local + 1)
        between += nearer - torch.minimum(nearer, count_below(token_at, low, high, torch.full_like(i, sink)))
    return int((always + between).sum())


def count_below(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """How many of values[low:high] are < limit, for many intervals at once (a wavelet matrix).

    values: [n], a permutation of 0..n-1; low, high, limit: [R].
    """
    n = values.numel()
    limit = limit.clamp(0, n)
    found = torch.zeros_like(low)
    for bit in reversed(range(n.bit_length())):
        zero = (values >> bit) & 1 == 0
        rank = torch.cat([zero.new_zeros(1, dtype=torch.long), zero.cumsum(0)])
        zeros = rank[-1]
        low_zero, high_zero = rank[low], rank[high]
        right = (limit >> bit) & 1 == 1
        found += torch.where(right, high_zero - low_zero, 0)
        low = torch.where(right, zeros + low - low_zero, low_zero)
        high = torch.where(right, zeros + high - high_zero, high_zero)
        values = torch.cat([values[zero], values[~zero]])
    return found
