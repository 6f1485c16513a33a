"""Attention weights of a few query rows, without the N x N matrix."""

from __future__ import annotations

import torch

HALF = (torch.bfloat16, torch.float16)


def row_scores(
    q_rows: torch.Tensor, k: torch.Tensor, *, scale: float | None = None, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Scaled scores [B, H, R, K] fp32 of q_rows [B, H, R, D] over k [B, Hkv, K, D], -inf where not visible.

    visible: bool, broadcastable to [B, Hkv | H, R, K] (see `visible_mask` for rules, offsets and padding), or None for
    all keys.
    """
    if q_rows.shape[1] % k.shape[1]:
        raise ValueError(f"query heads must be a multiple of key heads, got {q_rows.shape[1]} and {k.shape[1]}")
    batch, heads, rows, dim = q_rows.shape
    _, kv_heads, keys, _ = k.shape
    scale = dim**-0.5 if scale is None else scale
    if q_rows.dtype in HALF:
        q_rows, k = q_rows.float(), k.float()
    # Three dimensions: less overhead than four.
    grouped = (q_rows * scale).reshape(batch * kv_heads, heads // kv_heads * rows, dim)
    scores = torch.bmm(grouped, k.reshape(batch * kv_heads, keys, dim).transpose(1, 2))
    scores = scores.view(batch, heads, rows, keys)
    if visible is not None:
        if visible.ndim >= 3 and visible.shape[-3] == kv_heads != heads:
            visible = visible.repeat_interleave(heads // kv_heads, -3)
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores


def softmax_rows(scores: torch.Tensor, *, sink_logits: torch.Tensor | None = None) -> torch.Tensor:
    """Weights [B, H, R, K] of scores [B, H, R, K]. A row that sees nothing (all -inf) gets zeros.

    sink_logits: [H], a column without a key: weights then sum to < 1.
    """
    highest = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    if sink_logits is not None:
        sink = sink_logits.to(scores.dtype).view(1, -1, 1, 1)
        highest = torch.maximum(highest, sink)
    power = torch.exp(scores - highest)
    total = power.sum(-1, keepdim=True)
    if sink_logits is not None:
        total = total + torch.exp(sink - highest)
    return power / total.clamp(min=torch.finfo(scores.dtype).tiny)


def row_weights(
    q_rows: torch.Tensor,
    k: torch.Tensor,
    *,
    scale: float | None = None,
    visible: torch.Tensor | None = None,
    sink_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax weights [B, H, R, K] fp32: `softmax_rows` of `row_scores`, with their arguments."""
    return softmax_rows(row_scores(q_rows, k, scale=scale, visible=visible), sink_logits=sink_logits)


def row_outputs(weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Outputs [B, H, R, Dv] in v's dtype for weights [B, H, R, K] (edited or not) over v [B, Hkv, K, Dv]."""
    batch, heads, rows, keys = weights.shape
    _, kv_heads, _, dim = v.shape
    grouped = weights.reshape(batch * kv_heads, heads // kv_heads * rows, keys)
    same = v.dtype == weights.dtype
    values = v.reshape(batch * kv_heads, keys, dim)
    output = torch.bmm(grouped, values if same else values.to(weights.dtype)).view(batch, heads, rows, dim)
    return output if same else output.to(v.dtype)
