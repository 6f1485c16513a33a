"""pai: image tokens score higher in the row that is being generated.

Source: "Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in LVLMs", ECCV 2024,
arXiv 2407.21771. Its second half, guidance of the logits, is `attnpatch.decoding.ImageGuidance`.
"""

from __future__ import annotations

from pydantic import Field

from attnpatch.methods.vision.base import VisionConfig
from attnpatch.methods.vision.raised import RaisedImageScores
from attnpatch.patching.method import register


class PAIConfig(VisionConfig):
    alpha: float = Field(0.2, ge=0, description="boost: image scores grow by alpha times their size")
    first_layer: int = Field(2, ge=0, description="first layer that is changed, from 0; all from there on are")


@register("pai")
class PAI(RaisedImageScores):
    """e_j + alpha |e_j| for image tokens j, before the softmax, in the rows that predict an answer token."""

    Config = PAIConfig
    summary = "raises the scores of image tokens by a share of their size while the answer is generated"
    paper = "Paying More Attention to Image, ECCV 2024, arXiv 2407.21771"
    limits = "the same boost for every image token and head; guidance of the logits is a companion of its own"
    evidence = (
        "agrees with the formula written out on every family with image tokens. The paper's tables are not reproduced "
        "here; users of its code report CHAIR_S from 29 to 45 where others quote 25 for it, with less recall"
    )
    neutral_options = {"alpha": 0.0, "first_layer": 0}
    example_options = {"alpha": 0.2, "first_layer": 2}
    small_options = ({"alpha": 0.5, "first_layer": 0},)

    def check(self, site):
        if site.layer < self.config.first_layer:
            return f"before the first layer that is changed ({self.config.first_layer})"
        return super().check(site)

    def size(self, scores, at):
        return scores.abs()
