"""devils: in the middle layers, every head raises image tokens by what the heads together make of them.

Source: "Devils in Middle Layers of Large Vision-Language Models: Interpreting, Detecting and Mitigating Object
Hallucinations via Attention Lens", CVPR 2025, arXiv 2411.16724.
"""

from __future__ import annotations

import torch
from pydantic import Field

from attnpatch.methods.vision.base import VisionConfig
from attnpatch.methods.vision.depth import Layers, outside
from attnpatch.methods.vision.raised import RaisedImageScores
from attnpatch.patching.method import register

MIDDLE = range(5, 18)  # of 32 layers


class DevilsConfig(VisionConfig):
    alpha: float = Field(0.5, ge=0, description="boost: alpha times the mean size of a token's scores over the heads")
    layers: Layers | None = Field(
        None,
        description="layers that are changed, such as '5:18' (end excluded) or indices. Default: the paper's 5..17 of "
        "32, on a model of another depth the same share of it",
    )


@register("devils")
class Devils(RaisedImageScores):
    """e_j + alpha mean_h |e_hj| for image tokens j, before the softmax, in the rows that predict an answer token."""

    Config = DevilsConfig
    summary = "raises the scores of image tokens in the middle layers by their mean size over all heads"
    paper = "Devils in Middle Layers of Large Vision-Language Models, CVPR 2025, arXiv 2411.16724"
    limits = "the layers are LLaVA-1.5's; on a model of another depth they are the same share of it, not measured"
    evidence = (
        "agrees with the formula written out on every family with image tokens; the authors' CHAIR numbers are not "
        "reproduced here, and nobody else's are known"
    )
    neutral_options = {"alpha": 0.0}
    example_options = {"alpha": 0.5, "layers": "1:3"}
    small_options = ({}, {"alpha": 1.0, "layers": (0, 1)})

    def check(self, site):
        return outside(site, self.config.layers, MIDDLE) or super().check(site)

    def size(self, scores, at):
        if at.plain:
            return scores.abs().mean(1, keepdim=True)
        seen = scores > -torch.inf
        sizes = scores.abs().masked_fill(~seen, 0).sum(1, keepdim=True)
        return sizes / seen.sum(1, keepdim=True).clamp(min=1)
