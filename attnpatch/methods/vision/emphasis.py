"""Salient image tokens and the question weigh more in the heads that look at them (GIFT, stage B)."""

from __future__ import annotations

import torch

from attnpatch.kernels import row_outputs
from attnpatch.methods.vision.factors import reweighted


def emphasised(
    weights: torch.Tensor, parts: torch.Tensor, *, beta: float, share: float, plain: bool = False
) -> torch.Tensor:
    """Weights `[B, H, R, K]` of rows that predict an answer token, changed.

    parts: fp32 `[B, 3, K]`: 1 at image tokens, w - 1 at image tokens, 1 at tokens of the question; 0 elsewhere.
    share: share of the heads that are taken for those that look at the image, and for those that look at the question;
    both are ranked before anything changes. plain: every row of the weights sums to one.
    """
    parts = parts.to(weights.dtype)
    mass = row_outputs(weights, parts.transpose(1, 2).unsqueeze(1))  # [B, H, R, 3]
    looks = mass[..., ::2]  # at the image, at the question
    best = looks.topk(max(int(weights.shape[1] * share), 1), dim=1).indices
    chosen = torch.zeros_like(looks).scatter_(1, best, 1.0)
    image_heads, question_heads = chosen.unsqueeze(-1).unbind(-2)  # [B, H, R, 1]
    # r - 1: how much the chosen heads' mass on the image grows, one number for a row.
    looked, gained, _ = (image_heads * mass).sum(1, keepdim=True).unsqueeze(-1).unbind(-2)
    growth = gained / looked.clamp(min=torch.finfo(mass.dtype).tiny)
    louder = question_heads * (growth if beta == 1 else torch.add(beta - 1, growth, alpha=beta))
    _, salient, question = parts.unsqueeze(2).unsqueeze(2).unbind(1)  # [B, 1, 1, K]
    return reweighted(weights, torch.addcmul(image_heads * salient, louder, question), plain=plain)
