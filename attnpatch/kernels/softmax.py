"""One block of attention: the primitives that the chunked executor calls.

Public `scaled_dot_product_attention` wherever no log-sum-exp is needed. For the log-sum-exp: torch's CPU flash
operator where it exists and nothing needs gradients, else an explicit softmax over the block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def needs_grad(*tensors: torch.Tensor) -> bool:
    """Will autograd record an operation on these tensors?"""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def fast_lse(*tensors: torch.Tensor) -> bool:
    """Is there a fused operator that returns the lse of these tensors? It knows no gradient of the lse."""
    return _FLASH is not None and tensors[0].device.type == "cpu" and not needs_grad(*tensors)


def block_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    *,
    causal: bool = False,
    want_lse: bool = False,
    may_be_empty: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of one block: q [B, H, Q, D], k [B, Hkv, K, D], v [B, Hkv, K, D].

    mask: additive, [Q, K] or [B, H | 1, Q, K], -inf where not visible. `may_be_empty`: rows without any key are
    expected; they get lse -inf and output 0. Returns output and lse [B, H, Q] (None unless asked).
    """
    if not want_lse:
        grouped = q.shape[1] != k.shape[1]
        output = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
        )
        return output, None
    if fast_lse(q, k, v):
        output, lse = _FLASH(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
        if may_be_empty and mask is not None:
            lse = lse.masked_fill(torch.isneginf(mask).all(-1), -torch.inf)
        return output, lse
    if causal:
        corner = torch.full((q.shape[2], k.shape[2]), -torch.inf, dtype=torch.float32, device=q.device)
        mask = corner.triu(1)
    return explicit_attention(q, k, v, mask, scale)


def explicit_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax written out, with a differentiable lse; O(Q K) memory for the block. Empty rows: lse -inf, output 0."""
    batch, heads, rows, _ = q.shape
    scores = explicit_scores(q, k, scale)
    work = scores.dtype
    if mask is not None:
        mask = mask.to(work)
        scores = scores + (mask if mask.ndim == 2 else mask.unsqueeze(2))
    highest = scores.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(work).min)
    power = torch.exp(scores - highest)
    total = power.sum(-1, keepdim=True)
    safe = total.clamp(min=torch.finfo(work).tiny)
    output = (power / safe) @ v.to(work).unsqueeze(2)
    lse = (highest + safe.log()).masked_fill(total == 0, -torch.inf).squeeze(-1)
    return output.reshape(batch, heads, rows, -1).to(q.dtype), lse.reshape(batch, heads, rows)


def explicit_scores(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """Scaled scores [B, Hkv, G, Q, K] of q [B, H, Q, D] over k [B, Hkv, K, D], at least fp32."""
    batch, heads, rows, dim = q.shape
    work = torch.promote_types(q.dtype, torch.float32)
    kv_heads = k.shape[1]
    grouped = q.to(work).reshape(batch, kv_heads, heads // kv_heads * rows, dim)
    scores = grouped @ k.to(work).transpose(-1, -2) * scale
    return scores.view(batch, kv_heads, heads // kv_heads, rows, k.shape[2])
