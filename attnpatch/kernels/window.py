"""Plans in the original order: causal, sliding window + sinks, and permuted rules over whole prefixes."""

from __future__ import annotations

from functools import lru_cache

import torch

from .plan import Plan, Run, even_blocks, make_plan
from .rules import Causal, Permuted, Window
from .spans import Geometry

# Masks of wider windows would fill a cache faster than they save time.
WIDEST_READY = 8192


def window_plan(rule: Causal | Window, at: Geometry, block: int) -> Plan:
    """Blocks of `block` query rows, each with the keys of its window and the sinks: O(n w)."""
    window, sink, reach = (at.n, 0, None) if isinstance(rule, Causal) else (rule.window, rule.sink, rule.reach)
    window = window if reach is None else min(window, reach)
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

    def ready(run: Run, dtype: torch.dtype) -> torch.Tensor | None:
        key, row = at.key_first + run.ranges[-1][0], at.first + run.start
        if len(run.ranges) > 1 or (key < sink and row + run.size - key > window):
            return None
        skipped = key - row + window
        return _band(window, block, dtype)[: run.size, skipped : skipped + run.ranges[-1][1]]

    seen_by_all = sink == 0 or reach is None
    options = {"band": band, "relative": seen_by_all, "sinks": seen_by_all}
    if isinstance(rule, Causal):
        return make_plan("causal", blocks, ranges, **options)
    return make_plan("window", blocks, ranges, **options, ready=ready if window <= WIDEST_READY else None)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _band(window: int, rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask [rows, window + rows]: row r sees columns r + 1 .. r + window. All blocks are slices of it."""
    column, row = torch.arange(window + rows), torch.arange(rows)[:, None]
    return torch.zeros(rows, window + rows, dtype=dtype).masked_fill(
        (column <= row) | (column > row + window), -torch.inf
    )


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
