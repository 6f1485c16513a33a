"""Salient image tokens and the question weigh more in the heads that look at them (GIFT, stage B)."""

from __future__ import annotations

import torch

from attnpatch.methods.vision.factors import reweighted

TINY = torch.finfo(torch.float32).tiny  # in place of no attention to the image at all


def emphasised(
    weights: torch.Tensor, parts: torch.Tensor, *, beta: float, share: float, plain: bool = False
) -> torch.Tensor:
    """Weights `[B, H, R, K]` of rows that predict an answer token, changed.

    parts: `[B, 3, K]`, of their dtype: 1 at image tokens, w - 1 there, 1 at tokens of the question; 0 elsewhere.
    share: share of the heads that are taken for those that look at the image, and for those that look at the question;
    both are ranked before anything changes. plain: every row of the weights sums to one.
    """
    batch, heads, rows, keys = weights.shape
    flat = weights.transpose(1, 2).flatten(1, 2)  # [B, R H, K]: one product for all heads
    mass = torch.bmm(flat, parts.mT).view(batch * rows, heads, 3)
    best = mass[..., ::2].topk(max(int(heads * share), 1), dim=1).indices  # at the image, at the question
    chosen = mass.new_zeros(batch * rows, heads, 2).scatter_(1, best, 1.0)
    # The image heads' mass on the image and its growth; both over the first: 1 and r - 1, for a row [B R, 1, 2].
    growth = torch.bmm(chosen.mT, mass)[:, :1, :2]
    growth = growth / (growth[..., :1] + TINY)
    if beta != 1:
        growth = torch.cat([growth[..., :1], torch.add(beta - 1, growth[..., 1:], alpha=beta)], -1)
    more = torch.bmm((chosen * growth).view(batch, rows * heads, 2), parts[:, 1:])
    return reweighted(flat, more, plain=plain).view(batch, rows, heads, keys).transpose(1, 2)
