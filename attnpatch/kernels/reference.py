"""Dense attention under an explicit mask: this defines what is right. O(Q K) memory, for tests."""

from __future__ import annotations

import torch

from .rules import Rule
from .spans import visible_mask


def dense_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rule: Rule,
    *,
    scale: float | None = None,
    offset: int = 0,
    key_offset: int = 0,
    spans: list[tuple[int, int]] | None = None,
    sink_logits: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention of q [B, H, Q, D] over k [B, Hkv, K, D], v [B, Hkv, K, Dv], computed in `dtype`.

    Arguments as in `attend`. Returns output [B, H, Q, Dv], weights [B, H, Q, K], lse [B, H, Q].
    """
    group = q.shape[1] // k.shape[1]
    total = offset + q.shape[2]
    rows = torch.arange(offset, total, device=q.device)
    mask = visible_mask(rule, rows, k.shape[2], q.shape[0], key_offset=key_offset, spans=spans, total=total)
    mask = mask.repeat_interleave(q.shape[1] // mask.shape[1], 1) if mask.shape[1] > 1 else mask
    q, k, v = (x.to(dtype) for x in (q, k, v))
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores.masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1, keepdim=True)
    if sink_logits is not None:
        lse = torch.logaddexp(lse, sink_logits.to(dtype).view(1, -1, 1, 1))
    weights = torch.exp(scores - lse)
    return weights @ v, weights, lse.squeeze(-1)


def reference_attention(*args, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and weights of `dense_attention`."""
    return dense_attention(*args, **options)[:2]
