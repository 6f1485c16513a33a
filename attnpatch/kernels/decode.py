"""Dense attention of few query rows, with the group of a GQA head folded into the query rows.

torch's CPU kernel re-reads keys and values for every query head of a group; folded, it reads them once
(measured 1.7x to 9x faster at 32k keys).
"""

from __future__ import annotations

import torch

from .softmax import block_attention


def fold_group(q: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """q [B, H, Q, D] -> [B, Hkv, G * Q, D]: row g * Q + r is row r of the group's head g."""
    batch, heads, rows, dim = q.shape
    return q.reshape(batch, kv_heads, heads // kv_heads * rows, dim)


def decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    mask: torch.Tensor | None = None,
    want_lse: bool = False,
    may_be_empty: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of q [B, H, Q, D] over all of k, v [B, Hkv, K, D], meant for few rows.

    mask: additive, [Q, K] or [B, 1, Q, K], or None where every row sees every key. Returns output
    [B, H, Q, D] and lse [B, H, Q] (None unless asked).
    """
    batch, heads, rows, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    kv_heads = k.shape[1]
    if mask is not None and heads != kv_heads:
        mask = mask.repeat(*[1] * (mask.ndim - 2), heads // kv_heads, 1)
    output, lse = block_attention(
        fold_group(q, kv_heads), k, v, mask, scale, want_lse=want_lse, may_be_empty=may_be_empty
    )
    return output.reshape(batch, heads, rows, -1), None if lse is None else lse.reshape(batch, heads, rows)
