"""Attention weights that are multiplied column by column and made to sum to what they did before."""

from __future__ import annotations

import torch


def reweighted(weights: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    """`weights` times 1 + `more`, renormalised: the softmax of the scores + log(1 + more).

    weights: `[B, H, R, K]`; more: broadcastable to it, > -1. A learned sink keeps its share of the whole, as one more
    column would.
    """
    change = weights * more
    return (weights + change) / (1 + change.sum(-1, keepdim=True))
