"""The plan: one description of sparse work that every executor reads.

A plan lists blocks of query rows and, for each block, the ranges of keys it must score, both in a
processing order; a token rule then says which of the scored pairs count. Building one costs O(n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

FLEX_BLOCK = 128  # query rows, and keys, of one block of a FlexAttention mask


@dataclass(frozen=True)
class Run:
    """Blocks of equal shape, a constant step apart: block t covers rows start + t*step .. + size.

    ranges: (low, width, step) per key range of the first block.
    """

    start: int
    size: int
    step: int
    count: int
    ranges: tuple[tuple[int, int, int], ...]

    def rows(self, device) -> torch.Tensor:
        """Query rows in processing order: [count, size]."""
        blocks = torch.arange(self.count, device=device)[:, None] * self.step
        return self.start + blocks + torch.arange(self.size, device=device)

    def keys(self, device) -> torch.Tensor:
        """Key columns in processing order: [count, total width]."""
        blocks = torch.arange(self.count, device=device)[:, None]
        parts = [low + blocks * step + torch.arange(width, device=device) for low, width, step in self.ranges]
        return torch.cat(parts, 1)

    def take(self, first: int, count: int) -> Run:
        """The sub-run of blocks first..first+count-1."""
        ranges = tuple((low + first * step, width, step) for low, width, step in self.ranges)
        return Run(self.start + first * self.step, self.size, self.step, count, ranges)


@dataclass(frozen=True)
class Plan:
    """Blocks, key ranges and token rule for one row of a batch (or several rows of equal geometry).

    blocks: (start, stop) query rows; pointers: CSR, block b owns ranges[pointers[b]:pointers[b + 1]], each a
    (start, stop) of keys, disjoint. Query rows and keys are counted in processing order: row r is the
    query order_q[r], key c is order_k[c] (None: the original order).
    Token rule, on processing-order indices: pair (a, b) counts if band(a, b) and k_pos[b] <= q_limit[a]; either
    half may be absent. `relative`: band looks the same in all blocks of a run, so they share its mask.
    ready: a mask for a run that is cheaper than evaluating band, or None where it has none.
    sinks: in blocks of two ranges, every row sees all of the first one.
    may_be_empty: some rows may see no key at all (the plan is one part of a merge).
    """

    name: str
    blocks: tuple[tuple[int, int], ...]
    pointers: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    band: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = field(default=None, compare=False)
    relative: bool = False
    sinks: bool = False
    ready: Callable[[Run, torch.dtype], torch.Tensor | None] | None = field(default=None, compare=False)
    q_limit: torch.Tensor | None = field(default=None, compare=False)
    k_pos: torch.Tensor | None = field(default=None, compare=False)
    order_q: torch.Tensor | None = field(default=None, compare=False)
    order_k: torch.Tensor | None = field(default=None, compare=False)
    may_be_empty: bool = False

    def visible(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The token rule, elementwise: does the pair of query row a and key b count?"""
        if self.k_pos is None:
            return self.band(a, b)
        in_time = self.k_pos[b] <= self.q_limit[a]
        return in_time if self.band is None else in_time & self.band(a, b)

    def block_ranges(self, block: int) -> tuple[tuple[int, int], ...]:
        """Key ranges of one block."""
        return self.ranges[self.pointers[block] : self.pointers[block + 1]]

    @property
    def scored(self) -> int:
        """(query, key) pairs that the blocks score, visible or not."""
        return sum(
            (stop - start) * sum(high - low for low, high in self.block_ranges(b))
            for b, (start, stop) in enumerate(self.blocks)
        )

    def runs(self, most: int) -> list[Run]:
        """Neighbouring blocks joined into runs of at most `most` blocks."""
        found: list[Run] = []
        for b, (start, stop) in enumerate(self.blocks):
            ranges = self.block_ranges(b)
            joined = _extend(found[-1], start, stop, ranges, most) if found else None
            if joined:
                found[-1] = joined
            else:
                found.append(Run(start, stop - start, 0, 1, tuple((low, high - low, 0) for low, high in ranges)))
        return found


def _extend(run: Run, start: int, stop: int, ranges, most: int) -> Run | None:
    """`run` with one more block, or None where the block does not continue it."""
    if run.count >= most or stop - start != run.size or len(ranges) != len(run.ranges):
        return None
    step, rest = divmod(start - run.start, run.count)
    if rest or step < run.size or (run.count > 1 and step != run.step):
        return None
    moved = []
    for (low, width, old), (new_low, new_high) in zip(run.ranges, ranges, strict=True):
        shift, rest = divmod(new_low - low, run.count)
        if rest or shift < 0 or new_high - new_low != width or (run.count > 1 and shift != old):
            return None
        moved.append((low, width, shift))
    return Run(run.start, run.size, step, run.count + 1, tuple(moved))


def make_plan(name: str, blocks, ranges_of_block, **options) -> Plan:
    """A Plan from blocks [(start, stop)] and, per block, a list of key ranges (joined where they touch)."""
    pointers, ranges = [0], []
    for wanted in ranges_of_block:
        ranges.extend(joined_ranges(wanted))
        pointers.append(len(ranges))
    return Plan(name, tuple(blocks), tuple(pointers), tuple(ranges), **options)


def joined_ranges(ranges) -> list[tuple[int, int]]:
    """Sorted, non-empty, disjoint ranges covering the same keys."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted((int(low), int(high)) for low, high in ranges if high > low):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return joined


def even_blocks(rows: int, size: int) -> list[tuple[int, int]]:
    """[0, size), [size, 2 size), ... up to `rows`."""
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
