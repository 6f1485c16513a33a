"""Plans in the original order: causal, sliding window + sinks, and permuted rules over whole prefixes."""

from __future__ import annotations

import torch

from .plan import Plan, even_blocks, make_plan
from .rules import Causal, Permuted, Window
from .spans import Geometry


def window_plan(rule: Causal | Window, at: Geometry, block: int) -> Plan:
    """Blocks of `block` query rows, each with the keys of its window and the sinks: O(n w)."""
    window = at.n if isinstance(rule, Causal) else rule.window
    sink = 0 if isinstance(rule, Causal) else rule.sink
    reach = None if isinstance(rule, Causal) else rule.reach
    if reach is not None:
        window = min(window, reach)
    blocks = even_blocks(at.last - at.first, block)
    ranges = []
    for start, stop in blocks:
        first, last = at.first + start, at.first + stop
        high = min(last, at.key_last)
        # One key more than the first row needs: widths that are multiples of the block are faster.
        low = max(first - window, at.key_first)
        oldest = at.key_first if reach is None else max(first - reach + 1, at.key_first)
        wanted = [(oldest, min(sink, low)), (low, high)]
        ranges.append([(a - at.key_first, b - at.key_first) for a, b in wanted])

    def band(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return rule.visible(a + at.first, b + at.key_first, at.n)

    name = "causal" if isinstance(rule, Causal) else "window"
    relative = sink == 0 or reach is None
    return make_plan(name, blocks, ranges, band=band, relative=relative)


def prefix_plan(rule: Permuted, at: Geometry, block: int, slots: torch.Tensor) -> Plan:
    """A permuted rule in the original order, over all keys up to each block. slots: [n].

    O(n^2) time, O(block n) memory: the cheapest correct way where the prompt is short for the rule's budget.
    """
    blocks = even_blocks(at.last - at.first, block)
    ranges = [[(0, min(at.first + stop, at.key_last) - at.key_first)] for _, stop in blocks]

    def band(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        i, j = a + at.first, b + at.key_first
        return rule.seen(i, j, slots[i], slots[j], at.n)

    return make_plan("prefix", blocks, ranges, band=band)
