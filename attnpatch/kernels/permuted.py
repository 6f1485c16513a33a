"""Plans in a permuted order: exact slots (arXiv 2604.00754) and sorted buckets."""

from __future__ import annotations

import torch

from .plan import Plan, even_blocks, make_plan
from .rules import PermutedBuckets, PermutedWindow
from .spans import Geometry


def slots_plan(rule: PermutedWindow, slots: torch.Tensor, at: Geometry, block: int) -> Plan:
    """Queries and keys sorted by slot; a block scores the slots around it. slots: [n].

    With rule.sink or rule.local the plan leaves those keys out: `window_plan(Window(local, sink))` adds them.
    """
    q_slot, order_q = slots[at.first : at.last].sort()
    k_slot, order_k = slots[at.key_first : at.key_last].sort()
    blocks = even_blocks(at.last - at.first, block)
    starts = torch.tensor([start for start, _ in blocks], device=slots.device)
    ends = torch.tensor([stop - 1 for _, stop in blocks], device=slots.device)
    low, high = q_slot[starts] - rule.before, q_slot[ends] + rule.after + 1
    wanted = [(low.clamp(min=0), high.clamp(max=at.n))]
    if rule.circular:
        wanted += [((low + at.n).clamp(min=0), torch.full_like(high, at.n)), (torch.zeros_like(low), high - at.n)]
    found = [
        (torch.searchsorted(k_slot, a.contiguous()).tolist(), torch.searchsorted(k_slot, b.contiguous()).tolist())
        for a, b in wanted
    ]
    ranges = [[(a[t], b[t]) for a, b in found] for t in range(len(blocks))]
    q_pos, k_pos = order_q + at.first, order_k + at.key_first
    apart = rule.sink or rule.local

    def visible(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        i, j = q_pos[a], k_pos[b]
        seen = (j <= i) & rule.near(q_slot[a], k_slot[b], at.n)
        return seen & _apart(rule, i, j) if apart else seen

    return make_plan("slots", blocks, ranges, visible, order_q=order_q, order_k=order_k, may_be_empty=bool(apart))


def buckets_plan(rule: PermutedBuckets, slots: torch.Tensor, at: Geometry, block: int, even: bool = False) -> Plan:
    """Queries and keys sorted by (bucket, original position); blocks never cross a bucket unless `even`.

    Inside a bucket the order is causal, so a block scores the earlier part of its bucket only.
    Blocks at the same place in their buckets are listed together: they make one run.
    """
    big = at.n + 1
    bucket = slots // rule.size
    place = torch.arange(at.n, device=slots.device)
    label = bucket * big + place
    q_label, order_q = label[at.first : at.last].sort()
    k_label, order_k = label[at.key_first : at.key_last].sort()
    q_bucket, k_bucket = q_label // big, k_label // big
    q_pos, k_pos = order_q + at.first, order_k + at.key_first
    apart = rule.sink or rule.local

    def visible(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        i, j = q_pos[a], k_pos[b]
        step = q_bucket[a] - k_bucket[b]
        seen = (j <= i) & (step >= 0) & (step <= rule.previous)
        return seen & _apart(rule, i, j) if apart else seen

    blocks = even_blocks(at.last - at.first, block) if even else _bucket_blocks(q_bucket, block)
    starts = torch.tensor([start for start, _ in blocks], device=slots.device)
    ends = torch.tensor([stop - 1 for _, stop in blocks], device=slots.device)
    first_bucket, last_bucket, last_pos = q_bucket[starts], q_bucket[ends], q_pos[ends]
    if even:
        low = torch.searchsorted(k_label, (first_bucket - rule.previous).clamp(min=0) * big)
        high = torch.searchsorted(k_label, (last_bucket + 1) * big)
        ranges = [[pair] for pair in zip(low.tolist(), high.tolist(), strict=True)]
    else:
        ranges = [[] for _ in blocks]
        for back in range(min(rule.previous, int(bucket.max())) + 1):
            seen = first_bucket - back
            low = torch.searchsorted(k_label, seen.clamp(min=0) * big)
            high = torch.searchsorted(k_label, seen.clamp(min=0) * big + last_pos + 1)
            high = torch.where(seen < 0, low, high)
            for wanted, a, b in zip(ranges, low.tolist(), high.tolist(), strict=True):
                wanted.append((a, b))
    return make_plan("buckets", blocks, ranges, visible, order_q=order_q, order_k=order_k, may_be_empty=bool(apart))


def _bucket_blocks(q_bucket: torch.Tensor, block: int) -> list[tuple[int, int]]:
    """Blocks inside buckets, ordered by their place in the bucket, then by bucket."""
    sizes = torch.unique_consecutive(q_bucket, return_counts=True)[1].tolist()
    blocks, start = [], 0
    for size in sizes:
        blocks += [(place, start + low, start + high) for place, (low, high) in enumerate(even_blocks(size, block))]
        start += size
    return [(low, high) for _, low, high in sorted(blocks)]


def _apart(rule, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Pairs that the sink-and-local part does not hold."""
    return (i - j >= max(rule.local, 1)) & (j >= rule.sink)
