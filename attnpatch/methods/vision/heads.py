"""Which heads look at the image: vision-aware head divergence.

Source: "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence", ACL 2025, arXiv 2412.13949.
"""

from __future__ import annotations

import torch


def head_divergence(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """VHD `[..., H]`: how far the outputs `[..., H, Dv]` of each head are apart with and without the image (eq. 4)."""
    return torch.linalg.vector_norm(_precise(image) - _precise(text), dim=-1)


def text_activation(text: torch.Tensor) -> torch.Tensor:
    """TA `[..., H]`: squared size of the outputs `[..., H, Dv]` of each head without the image."""
    return _precise(text).square().sum(-1)


def without_outliers(divergence: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """`divergence` `[..., H]`, zero where both it and the text activation `[..., H]` stand out in the layer (eq. 6).

    To stand out is to lie above the mean over the heads by more than their (population) standard deviation: such a
    head answers strongly to anything, and the image is only one of those things.
    """
    return divergence.masked_fill(_stands_out(divergence) & _stands_out(activation), 0)


def above_median(divergence: torch.Tensor) -> torch.Tensor:
    """The heads above the lower median of their layer (eq. 7), bool `[..., H]`: half of them, fewer with ties.

    >>> above_median(torch.tensor([1.0, 4.0, 2.0, 3.0]))
    tensor([False,  True, False,  True])
    """
    return divergence > divergence.median(-1, keepdim=True).values


def total_divergence(divergence: torch.Tensor, top: int) -> torch.Tensor:
    """A layer's part of T-VHD `[...]`: the sum of the `top` largest divergences `[..., H]`."""
    return divergence.topk(min(top, divergence.shape[-1]), dim=-1).values.sum(-1)


def _stands_out(values: torch.Tensor) -> torch.Tensor:
    mean, spread = values.mean(-1, keepdim=True), values.std(-1, correction=0, keepdim=True)
    return values > mean + spread


def _precise(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
