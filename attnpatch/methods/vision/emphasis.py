"""Salient image tokens and the question weigh more in the heads that look at them (GIFT, stage B)."""

from __future__ import annotations

import torch

from attnpatch.methods.vision.factors import reweighted


def emphasised(weights: torch.Tensor, parts: torch.Tensor, *, beta: float, share: float) -> torch.Tensor:
    """Weights `[B, H, R, K]` of rows that predict an answer token, changed.

    parts: fp32 `[B, 3, T]` over the first T <= K keys: 1 at image tokens, 1 at tokens of the question, and w - 1 at
    image tokens, 0 elsewhere. share: share of the heads that are taken for those that look at the image, and for those
    that look at the question; both are ranked before anything changes.
    """
    held = parts.shape[-1]
    mass = weights[..., :held] @ parts[:, None].mT  # [B, H, R, 3]
    heads = max(int(weights.shape[1] * share), 1)
    best = mass[..., :2].topk(heads, dim=1).indices
    chosen = torch.zeros_like(mass[..., :2]).scatter(1, best, 1.0)
    on_image, on_question, gained = mass.unbind(-1)
    image_heads, question_heads = chosen.unbind(-1)
    # r: by how much the chosen heads' mass on the image grows, one number for a row.
    looked = (image_heads * on_image).sum(1, keepdim=True)
    growth = (image_heads * gained).sum(1, keepdim=True) / looked.clamp(min=torch.finfo(mass.dtype).tiny)
    more = torch.stack([question_heads * (beta * (1 + growth) - 1), image_heads], -1)  # [B, H, R, 2]
    total = (more * torch.stack([on_question, gained], -1)).sum(-1, keepdim=True)
    by_key = more @ parts[:, None, 1:]
    if held < weights.shape[-1]:
        by_key = torch.nn.functional.pad(by_key, (0, weights.shape[-1] - held))
    return reweighted(weights, by_key, total)
