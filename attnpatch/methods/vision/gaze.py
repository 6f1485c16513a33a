"""How attention to an image jumps while a question is read, and what that says about its tokens (GIFT, stage A)."""

from __future__ import annotations

import torch


def positive_shift(weights: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Sum over the chosen rows i of max(A_i - A_{i-1}, 0), `[B, H, K]`.

    weights: A of neighbouring rows, `[B, H, R, K]`; chosen: 1 for these among the rows from the second one on, else 0,
    `[B, R - 1]`, in the dtype of the weights.
    """
    jumps = (weights[:, :, 1:] - weights[:, :, :-1]).clamp(min=0)
    return (chosen[:, None, None] @ jumps).squeeze(2)


def saliency(shift: torch.Tensor, image: torch.Tensor, share: float) -> torch.Tensor:
    """s `[B, T]`: the shift summed over the share of the heads that shift most; 0 off the image.

    shift: sums over rows, `[B, H, T]`; image: image tokens, bool `[B, T]`. The paper takes means; what is made of s
    does not depend on its scale.
    """
    shift = shift * image[:, None]
    heads = max(int(shift.shape[1] * share), 1)
    best = shift.sum(-1).topk(heads, dim=1).indices
    return shift.gather(1, best.unsqueeze(-1).expand(-1, -1, shift.shape[-1])).sum(1)


def salience_factors(s: torch.Tensor, image: torch.Tensor, alpha: float, deviations: float) -> torch.Tensor:
    """w - 1 `[B, T]`; w = exp(alpha s'), where s' is s over each prompt's image tokens, clamped and stretched to 0..1.

    s: 0 or more, and 0 off the image; deviations: it is clamped at so many (population) standard deviations from its
    mean. Where it is the same for all image tokens, and off the image, w is 1.
    """
    count = image.sum(1, keepdim=True).clamp(min=1)
    mean = s.sum(1, keepdim=True) / count
    most = torch.linalg.vector_norm((s - mean) * image, dim=1, keepdim=True) * deviations / count.sqrt()
    s = s.clamp(mean - most, mean + most)
    low, high = torch.where(image, s, torch.inf).amin(1, keepdim=True), s.amax(1, keepdim=True)
    stretched = (s - low) / (high - low).clamp(min=torch.finfo(s.dtype).tiny)
    return torch.where(image, torch.expm1(alpha * stretched), 0)
