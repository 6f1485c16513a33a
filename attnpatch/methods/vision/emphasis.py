"""Salient image tokens and the question weigh more in the heads that look at them (GIFT, stage B)."""

from __future__ import annotations

import torch

from attnpatch.methods.vision.factors import reweighted


def emphasised(
    weights: torch.Tensor, parts: torch.Tensor, *, beta: float, share: float, plain: bool = False
) -> torch.Tensor:
    """Weights `[B, H, R, K]` of rows that predict an answer token, changed.

    parts: fp32 `[B, 3, K]`: 1 at image tokens, w - 1 at image tokens, 1 at tokens of the question; 0 elsewhere.
    share: share of the heads that are taken for those that look at the image, and for those that look at the question;
    both are ranked before anything changes. plain: every row of the weights sums to one.
    """
    batch, heads, rows, _ = weights.shape
    parts, flat = parts.to(weights.dtype), weights.flatten(1, 2)  # [B, H R, K]: one product for all heads
    mass = torch.bmm(flat, parts.mT).view(batch, heads, rows, 3)
    looks = mass[..., ::2]  # at the image, at the question
    best = looks.topk(max(int(heads * share), 1), dim=1).indices
    chosen = torch.zeros_like(looks).scatter_(1, best, 1.0)
    # The image heads' mass on the image and its growth; both over the first: 1 and r - 1, for a row [B, 1, R, 2].
    growth = (chosen[..., :1] * mass[..., :2]).sum(1, keepdim=True)
    growth = growth / (growth[..., :1] + torch.finfo(mass.dtype).tiny)
    if beta != 1:
        growth = torch.cat([growth[..., :1], torch.add(beta - 1, growth[..., 1:], alpha=beta)], -1)
    more = torch.bmm((chosen * growth).flatten(1, 2), parts[:, 1:])
    return reweighted(flat, more, plain=plain).view_as(weights)
