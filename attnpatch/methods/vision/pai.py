"""pai: image tokens score higher in the row that is being generated.

Source: "Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in LVLMs", ECCV 2024,
arXiv 2407.21771. Its second half, guidance of the logits, is `attnpatch.decoding.ImageGuidance`.
"""

from __future__ import annotations

import torch
from pydantic import Field

from attnpatch.methods.vision.base import VisionConfig, VisionMethod, answer_rows, boost
from attnpatch.patching.edits import Edit, RowsAt
from attnpatch.patching.method import register


class PAIConfig(VisionConfig):
    alpha: float = Field(0.2, ge=0, description="boost: image scores grow by alpha times their size")
    first_layer: int = Field(2, ge=0, description="first layer that is changed, from 0; all from there on are")


@register("pai")
class PAI(VisionMethod):
    """e_j + alpha |e_j| for image tokens j, before the softmax, in the rows that predict an answer token."""

    Config = PAIConfig
    summary = "raises the scores of image tokens by a share of their size while the answer is generated"
    paper = "Paying More Attention to Image, ECCV 2024, arXiv 2407.21771"
    neutral = "alpha = 0"
    limits = "the same boost for every image token and head; guidance of the logits is a companion of its own"
    neutral_options = {"alpha": 0.0}
    small_options = ({"alpha": 0.5, "first_layer": 0},)
    reads_whole_prompt = True

    def check(self, site):
        if site.layer < self.config.first_layer:
            return f"before the first layer that is changed ({self.config.first_layer})"
        return super().check(site)

    def attend(self, call, inner):
        rows = answer_rows(call) if self.config.alpha else None
        if rows is not None:
            images = call.images

            def boosted(scores: torch.Tensor, at: RowsAt) -> tuple[torch.Tensor, None]:
                return boost(scores, at.image_keys(images, scores.shape[-1]), self.config.alpha * scores.abs()), None

            call.edit(Edit(boosted, before_softmax=True, first=rows.first, rows=rows.mask, everywhere=True))
        return inner(call)
