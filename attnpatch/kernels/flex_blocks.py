"""Block lists on FlexAttention: one block mask per head, of the mask's own block size whatever the rule's is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask

from .block_rule import Blocks
from .blocks import head_lists
from .flex import BLOCK, masked_attention
from .spans import Geometry


def run_blocks(
    rule: Blocks,
    at: Geometry,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    want_lse: bool,
    compiled: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of real tokens q [B, H, Q, D] over k, v [B, Hkv, K, D]: output [B, H, Q, D], lse [B, H, Q] | None."""
    mask = block_mask(rule, at, q.shape[1], k.shape[1], q.device)
    return masked_attention(mask, q, k, v, scale, want_lse, compiled)


def block_mask(rule: Blocks, at: Geometry, heads: int, kv_heads: int, device: torch.device) -> BlockMask:
    """The rule as a BlockMask [1, H, Q blocks, K blocks]; key blocks that need no mask are listed apart."""
    size, base = rule.block, at.first // rule.block
    kept = rule.lists(base, -(-at.last // size), device)
    head_lists(kept, heads, kv_heads)  # refuses a wrong number of lists
    kept = kept.expand(heads, -1, -1)
    # How many kept pairs of blocks lie before each corner: any rectangle of blocks is then counted at once.
    corner = F.pad(kept.int().cumsum(1).cumsum(2), (1, 0, 1, 0))
    rows, columns = _edges(at.first, at.last, device), _edges(at.key_first, at.key_last, device)
    top, bottom = rows[0] // size - base, (rows[1] - 1) // size - base + 1
    left, right = columns[0] // size, (columns[1] - 1) // size + 1
    # Blocks behind the diagonal are not listed: a rectangle that crosses it may end where the list does.
    right = right.clamp(max=kept.shape[2])

    def corners(row, column):
        return corner[:, row[:, None], column[None, :]]

    found = corners(bottom, right) - corners(top, right) - corners(bottom, left) + corners(top, left)
    whole = found == ((bottom - top)[:, None] * (right - left)[None, :])
    early = columns[1][None, :] - 1 <= rows[0][:, None]
    touched = (found > 0) & (columns[0][None, :] <= rows[1][:, None] - 1)
    inside = (columns[1] - columns[0] == BLOCK)[None, :] & (rows[1] - rows[0] == BLOCK)[:, None]
    full = touched & whole & early & inside

    def mask_mod(batch, head, query, key):
        i, j = query + at.first, key + at.key_first
        return kept[head, i // size - base, j // size] & (j <= i)

    return BlockMask.from_kv_blocks(
        *_listed(touched & ~full),
        *_listed(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(at.last - at.first, at.key_last - at.key_first),
    )


def _edges(first: int, last: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and stop of the mask's blocks over the tokens first..last-1."""
    start = torch.arange(first, last, BLOCK, device=device)
    return start, (start + BLOCK).clamp(max=last)


def _listed(wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """wanted [H, Q blocks, K blocks] as counts [1, H, Q blocks] and indices [1, H, Q blocks, K blocks]."""
    counts = wanted.sum(2, dtype=torch.int32)
    # Entries past the count are never read, but they must be valid block numbers.
    indices = wanted.int().argsort(dim=2, descending=True, stable=True).int()
    return counts[None], indices[None]
