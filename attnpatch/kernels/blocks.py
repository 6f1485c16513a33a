"""Block-sparse attention on scaled dot-product attention: units of one head and one query block, gathered.

Units that keep equally many key blocks share a call, so nothing is padded and their masks are the same: a triangle
at the end. Heads of a group that keep the same blocks are one unit, with the group in its rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .block_rule import Blocks
from .softmax import block_attention, needs_grad
from .spans import Geometry

# Keys gathered for one call, in elements per thread: enough units to be worth a call, few enough to stay in the cache.
GATHERED = 1 << 19


class _Units(NamedTuple):
    """Units of one call. queries: [U], numbers of query units; keys: [U, count], numbers of key blocks, the diagonal
    one last; rows: the slice of each query block that holds queries; hidden: leading key columns that do not exist."""

    queries: torch.Tensor
    keys: torch.Tensor
    rows: slice
    hidden: int


def run_blocks(
    rule: Blocks, at: Geometry, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, want_lse: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of real tokens q [B, H, Q, D] over k, v [B, Hkv, K, D]: output [B, H, Q, D], lse [B, H, Q] | None."""
    batch, heads, rows, dim = q.shape
    kv_heads, size = k.shape[1], rule.block
    lists = head_lists(rule.lists(at.first // size, -(-at.last // size), q.device), heads, kv_heads)
    key_block, absent = divmod(at.key_first, size)
    lists = lists[:, :, key_block:]
    fold = heads // lists.shape[0]
    lead = at.first % size
    q_blocks = _whole_blocks(q, lead, size).unflatten(1, (-1, fold)).transpose(2, 3).reshape(-1, fold, size, dim)
    k_blocks, v_blocks = (_whole_blocks(x, absent, size).reshape(-1, size * dim) for x in (k, v))

    def score(queries, keys, values, units: _Units):
        """Output [U, fold, size, D] and lse [U, fold, size] of some units; rows without a query are zero."""
        count, width = len(units.queries), units.keys.shape[1] * size
        own = queries.index_select(0, units.queries)[:, :, units.rows].flatten(1, 2)[:, None]
        gathered = (x.index_select(0, units.keys.flatten()).view(count, 1, width, dim) for x in (keys, values))
        output, lse = block_attention(own, *gathered, _mask(units, size, fold, q), scale, want_lse=want_lse)
        around = (units.rows.start, size - units.rows.stop)
        output = F.pad(output.reshape(count, fold, -1, dim), (0, 0, *around))
        return output, None if lse is None else F.pad(lse.reshape(count, fold, -1), around)

    places, pieces = [], []
    most = GATHERED * torch.get_num_threads() // (size * dim)
    for units in _calls(lists, at, size, batch, kv_heads, absent, most):
        arguments = (q_blocks, k_blocks, v_blocks, units)
        # Kept for a backward pass, all gathered keys would be many copies of the keys.
        again = needs_grad(q, k, v)
        piece = checkpoint(score, *arguments, use_reentrant=False) if again else score(*arguments)
        places.append(units.queries)
        pieces.append(piece)
    back = torch.argsort(torch.cat(places))

    def in_order(index: int) -> torch.Tensor:
        found = torch.cat([piece[index] for piece in pieces]).index_select(0, back)
        found = found.unflatten(0, (batch, lists.shape[0], -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return found[:, :, lead : lead + rows]

    return in_order(0), in_order(1) if want_lse else None


def head_lists(kept: torch.Tensor, heads: int, kv_heads: int) -> torch.Tensor:
    """kept [H | 1, ...] as [Hkv, ...] where all heads of every group agree, else as it is."""
    if kept.shape[0] not in (1, heads):
        raise ValueError(f"kept must have one list per query head: {heads} heads, got {kept.shape[0]} lists")
    grouped = kept.expand(heads, -1, -1).unflatten(0, (kv_heads, -1))
    return grouped[:, 0] if bool((grouped == grouped[:, :1]).all()) else kept


def _whole_blocks(x: torch.Tensor, lead: int, size: int) -> torch.Tensor:
    """x [B, H, N, D] whose first row stands at place `lead` of its block, as zero-padded blocks [B, H, n, size, D]."""
    tail = -(lead + x.shape[2]) % size
    return F.pad(x, (0, 0, lead, tail)).unflatten(2, (-1, size))


def _calls(lists: torch.Tensor, at: Geometry, size: int, batch: int, kv_heads: int, absent: int, most: int):
    """The units of all calls. lists: [L, query blocks, key blocks]; at most about `most` key blocks a call."""
    heads, rows, columns = lists.shape
    counts = lists.sum(2) * 2 + (lists[:, :, 0] if absent else 0)
    device = lists.device
    group = torch.arange(heads, device=device) * kv_heads // heads  # the key head of each list
    for first, last, inside in _bands(at, size):
        order = counts[:, first:last].flatten()
        order, units = order.sort(stable=True)
        codes, lengths = torch.unique_consecutive(order, return_counts=True)
        for code, bucket in zip(codes.tolist(), units.split(lengths.tolist()), strict=True):
            count, hidden = code // 2, absent if code % 2 else 0
            head, row = bucket // (last - first), bucket % (last - first) + first
            kept = lists[head, row].nonzero()[:, 1].view(-1, count)
            member = torch.arange(batch, device=device)[:, None]
            queries = (member * heads + head) * rows + row
            keys = ((member * kv_heads + group[head]) * columns)[:, :, None] + kept
            each = max(1, most // count)
            for part, blocks in zip(queries.flatten().split(each), keys.flatten(0, 1).split(each), strict=True):
                yield _Units(part, blocks, inside, hidden)


def _bands(at: Geometry, size: int) -> list[tuple[int, int, slice]]:
    """Query blocks first..last-1, counted from the first one present, that hold the same slice of queries."""
    base = at.first // size
    bands: list[tuple[int, int, slice]] = []
    for block in range(base, -(-at.last // size)):
        inside = slice(max(at.first - block * size, 0), min(at.last - block * size, size))
        if bands and bands[-1][2] == inside:
            bands[-1] = (bands[-1][0], block - base + 1, inside)
        else:
            bands.append((block - base, block - base + 1, inside))
    return bands


def _mask(units: _Units, size: int, fold: int, q: torch.Tensor) -> torch.Tensor:
    """Additive mask [fold * rows, keys] of a call: the triangle of the diagonal block, which comes last."""
    width = units.keys.shape[1] * size
    mask = torch.zeros(size, width, dtype=q.dtype, device=q.device)
    mask[:, width - size :].fill_(-torch.inf).triu_(1)
    mask[:, : units.hidden] = -torch.inf
    return mask[units.rows].repeat(fold, 1)
