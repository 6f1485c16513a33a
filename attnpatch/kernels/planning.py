"""From a rule and a row's geometry to the plans whose merged results are the answer."""

from __future__ import annotations

import torch

from .permuted import buckets_plan, slots_plan
from .plan import Plan
from .rules import Causal, Permuted, PermutedWindow, Rule, Window
from .spans import Geometry
from .window import prefix_plan, window_plan

# Where blocks see very many keys they get fewer rows, so that a block's mask stays small.
BLOCK_CELLS = 1 << 21
MIN_BLOCK = 64


def plans(
    rule: Rule, at: Geometry, slots: torch.Tensor | None, block: int, slots_block: int, even: bool
) -> list[Plan]:
    """Plans over disjoint keys (one, or two to be merged by log-sum-exp), the cheapest correct set.

    slots: [n] for a permuted rule (of one head), else None. block, slots_block, even: see `Executor`.
    """
    keys = at.key_last - at.key_first
    fitting = block if even else _fitting(block, keys)
    if isinstance(rule, Causal):
        return [window_plan(rule, at, fitting)]
    if isinstance(rule, Window):
        return [window_plan(rule, at, block if even else _fitting(block, min(rule.window, keys)))]
    if not isinstance(rule, Permuted):
        raise TypeError(f"rule must be Causal, Window, PermutedWindow, PermutedBuckets or Blocks, got {rule!r}")
    parts = [
        slots_plan(rule, slots, at, slots_block)
        if isinstance(rule, PermutedWindow)
        else buckets_plan(rule, slots, at, block, even)
    ]
    if rule.sink or rule.local:
        parts.append(window_plan(Window(max(rule.local, 1), rule.sink), at, block))
    prefix = prefix_plan(rule, at, fitting, slots.int())
    # Permuting copies q, k and v and merging reads outputs twice: worth it for a clear gain only.
    return parts if sum(part.scored for part in parts) < 0.9 * prefix.scored else [prefix]


def _fitting(block: int, keys: int) -> int:
    return min(block, max(MIN_BLOCK, BLOCK_CELLS // keys))
