"""Plans in a permuted order: exact slots (arXiv 2604.00754) and sorted buckets."""

from __future__ import annotations

import torch

from .plan import Plan, even_blocks, make_plan
from .rules import Permuted, PermutedBuckets, PermutedWindow
from .spans import Geometry


def slots_plan(rule: PermutedWindow, slots: torch.Tensor, at: Geometry, block: int) -> Plan:
    """Queries and keys sorted by slot; a block scores the slots around it. slots: [n].

    With rule.sink or rule.local the plan leaves those keys out: `window_plan(Window(local, sink))` adds them.
    """
    q_slot, order_q = slots[at.first : at.last].sort()
    k_slot, order_k = slots[at.key_first : at.key_last].sort()
    blocks = even_blocks(at.last - at.first, block)
    starts, ends = _edges(blocks, slots.device)
    low, high = q_slot[starts] - rule.before, q_slot[ends] + rule.after + 1
    wanted = [(low.clamp(min=0), high.clamp(max=at.n))]
    if rule.circular:
        wanted += [((low + at.n).clamp(min=0), torch.full_like(high, at.n)), (torch.zeros_like(low), high - at.n)]
    found = [(torch.searchsorted(k_slot, a), torch.searchsorted(k_slot, b)) for a, b in wanted]
    ranges = torch.stack([torch.stack(pair, -1) for pair in found], 1).tolist()

    def band(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return rule.near(q_slot[a], k_slot[b], at.n)

    # With every slot present, blocks away from the edges are shifted copies of each other.
    order = _order(rule, order_q, order_k, at)
    return make_plan("slots", blocks, ranges, band=band, relative=_complete(at), **order)


def buckets_plan(rule: PermutedBuckets, slots: torch.Tensor, at: Geometry, block: int, even: bool = False) -> Plan:
    """Queries and keys sorted by (bucket, original position); blocks never cross a bucket unless `even`.

    Inside a bucket the order is causal, so a block scores the earlier part of its bucket only.
    Blocks at the same place in their buckets are listed together: they make one run.
    Sinks and local keys are left out, as in `slots_plan`.
    """
    stride = at.n + 1
    label = slots // rule.size * stride + torch.arange(at.n, device=slots.device)
    q_label, order_q = label[at.first : at.last].sort()
    k_label, order_k = label[at.key_first : at.key_last].sort()
    q_bucket, k_bucket = q_label // stride, k_label // stride
    order = _order(rule, order_q, order_k, at)
    blocks = even_blocks(at.last - at.first, block) if even else _bucket_blocks(q_bucket, block)
    starts, ends = _edges(blocks, slots.device)
    first_bucket, last_bucket, last_pos = q_bucket[starts], q_bucket[ends], order_q[ends] + at.first
    if even:
        low = torch.searchsorted(k_label, (first_bucket - rule.previous).clamp(min=0) * stride)
        high = torch.searchsorted(k_label, (last_bucket + 1) * stride)
        ranges = torch.stack([low, high], -1)[:, None].tolist()

        def touching(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            step = q_bucket[a] - k_bucket[b]
            return (step >= 0) & (step <= rule.previous)

        return make_plan("buckets", blocks, ranges, band=touching, **order)
    found = []
    for back in range(min(rule.previous, int(q_bucket.max())) + 1):
        start = (first_bucket - back) * stride
        low, high = torch.searchsorted(k_label, start), torch.searchsorted(k_label, start + last_pos + 1)
        found.append(torch.stack([low, torch.where(start < 0, low, high)], -1))
    ranges = torch.stack(found, 1).tolist()
    if rule.previous or order["may_be_empty"] or not _complete(at):
        return make_plan("buckets", blocks, ranges, **order)
    # Rows and keys are the same sorted buckets: causal is as simple as in the original order.
    del order["q_limit"], order["k_pos"]
    return make_plan("buckets", blocks, ranges, band=lambda a, b: b <= a, relative=True, **order)


def _bucket_blocks(q_bucket: torch.Tensor, block: int) -> list[tuple[int, int]]:
    """Blocks inside buckets, ordered by their place in the bucket, then by bucket."""
    sizes = torch.unique_consecutive(q_bucket, return_counts=True)[1].tolist()
    blocks, start = [], 0
    for size in sizes:
        blocks += [(place, start + low, start + high) for place, (low, high) in enumerate(even_blocks(size, block))]
        start += size
    return [(low, high) for _, low, high in sorted(blocks)]


def _edges(blocks: list[tuple[int, int]], device) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last row of each block."""
    starts, stops = torch.tensor(blocks, device=device).unbind(1)
    return starts.contiguous(), stops - 1


def _complete(at: Geometry) -> bool:
    return at == Geometry(0, at.n, 0, at.n, at.n)


def _order(rule: Permuted, order_q: torch.Tensor, order_k: torch.Tensor, at: Geometry) -> dict:
    """Processing order and causality of a permuted plan; sinks and local keys are left to their own plan."""
    q_limit, k_pos = (order_q + at.first).int(), (order_k + at.key_first).int()
    apart = bool(rule.sink or rule.local)
    if apart:
        q_limit = q_limit - max(rule.local, 1)
        k_pos = torch.where(k_pos < rule.sink, at.n, k_pos)
    return {"order_q": order_q, "order_k": order_k, "q_limit": q_limit, "k_pos": k_pos, "may_be_empty": apart}
