"""Attention weights that are multiplied column by column and made to sum to what they did before."""

from __future__ import annotations

import torch


def reweighted(weights: torch.Tensor, more: torch.Tensor, *, plain: bool = False) -> torch.Tensor:
    """`weights` times 1 + `more`, renormalised: the softmax of the scores + log(1 + more).

    weights: `[..., K]`; more: broadcastable to it, > -1. A learned sink keeps its share of the whole, as one more
    column would. plain: every row of the weights sums to one.
    """
    change = weights * more
    new = weights + change
    return new / (new.sum(-1, keepdim=True) if plain else 1 + change.sum(-1, keepdim=True))
