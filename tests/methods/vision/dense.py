"""The dense reference of an edit: all weights of all rows written out in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch

import attnpatch
from attnpatch.patching.masks import LazyMask


class Dense(attnpatch.Method):
    """Attention with `change(scores [B, H, Q, K] float64, call)` -> weights, at every site."""

    name = "dense"
    needs_images = True
    needs_residual = True

    def __init__(self, change: Callable) -> None:
        super().__init__()
        self.change = change

    def attend(self, call, inner):
        inner(call)
        group = call.query.shape[1] // call.key.shape[1]
        key, value = (x.double().repeat_interleave(group, 1) for x in (call.key, call.value))
        scale = call.query.shape[-1] ** -0.5 if call.scaling is None else call.scaling
        scores = call.query.double() @ key.mT * scale
        mask = call.mask.spec.dense if isinstance(call.mask, LazyMask) else call.mask
        if mask is not None:
            visible = mask if mask.dtype == torch.bool else mask > -1e30
            scores = scores.masked_fill(~visible, -torch.inf)
        weights = self.change(scores, call)
        output = (weights.nan_to_num() @ value).to(call.query.dtype)
        return output.transpose(1, 2).contiguous(), None
