"""The rule of block-sparse attention: per query head, the key blocks that each query block keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .rules import Rule, whole


@dataclass(frozen=True, eq=False)
class Blocks(Rule):
    """Causal attention inside kept blocks.

    Visible: j <= i and kept[h, i // block - first, j // block]; query blocks outside the list see all earlier keys.
    kept: bool [H, query blocks, key blocks], or [1, ...] shared by all heads; what it says behind the diagonal does
    not matter. first: the query block that its first row speaks of, for a prompt that arrives in chunks.
    Equal only to itself: comparing lists would cost as much as using them.
    """

    kept: torch.Tensor
    block: int
    first: int = 0

    def __post_init__(self):
        whole("block", self.block, 1)
        whole("first", self.first, 0)
        kept = self.kept
        if not isinstance(kept, torch.Tensor) or kept.dtype != torch.bool:
            raise TypeError(f"kept must be a bool tensor [H, query blocks, key blocks], got {kept!r}")
        if kept.ndim != 3 or kept.shape[0] < 1 or kept.shape[2] < self.first + kept.shape[1]:
            raise ValueError(
                "kept must be [H, query blocks, key blocks] with at least first + query blocks key blocks, "
                f"got {list(kept.shape)} and first={self.first}"
            )
        if not bool(kept.diagonal(self.first, 1, 2).all()):
            raise ValueError("kept must hold the diagonal: every query block needs its own keys")

    def lists(self, first: int, last: int, device: torch.device | str | None = None) -> torch.Tensor:
        """The key blocks 0..last-1 of the query blocks first..last-1, causal: bool [H, last - first, last]."""
        kept = self.kept if device is None else self.kept.to(device)
        found = kept.new_ones(kept.shape[0], last - first, last)
        low, high = max(first, self.first), min(last, self.first + kept.shape[1])
        if low < high:
            width = min(last, kept.shape[2])  # key blocks behind the list lie behind the diagonal
            found[:, low - first : high - first, :width] = kept[:, low - self.first : high - self.first, :width]
        return found.tril_(first)

    def visible(self, i, j, n):
        kept = self.kept.to(i.device)
        row, column = i // self.block - self.first, j // self.block
        listed = (row >= 0) & (row < kept.shape[1])
        # An index outside the list is either hidden by causality or belongs to a row outside of it.
        chosen = kept[:, row.clamp(0, kept.shape[1] - 1), column.clamp(max=kept.shape[2] - 1)]
        return (chosen | ~listed) & (j <= i)

    def sees_all(self, n):
        last = min(-(-n // self.block), self.first + self.kept.shape[1])
        if last <= self.first:
            return True
        kept = self.kept[:, : last - self.first, :last]
        causal = torch.ones(kept.shape[1:], dtype=torch.bool, device=kept.device).tril_(self.first)
        return bool((kept | ~causal).all())

    def pairs(self, first, last, n):
        if last <= first:
            return 0
        low = first // self.block
        kept = self.lists(low, -(-last // self.block), "cpu")
        at = torch.arange(low, low + kept.shape[1]) * self.block
        begin, end = at.clamp(min=first), (at + self.block).clamp(max=last)
        own = ((begin - at + 1) + (end - at)) * (end - begin) // 2  # the triangle inside the diagonal block
        earlier = (kept.sum(2) - 1) * self.block * (end - begin)
        total, heads = int((earlier + own).sum()), kept.shape[0]
        return total // heads if total % heads == 0 else total / heads

    def __str__(self):
        return f"kept blocks of {self.block}"
