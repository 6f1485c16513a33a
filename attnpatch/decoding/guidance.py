"""guidance: logits pushed away from what the model would say without the image.

Source: the logits half of "Paying More Attention to Image" (PAI), ECCV 2024, arXiv 2407.21771; PAINT, arXiv
2501.12206, uses the same with gamma 2. PAI's attention half is `attnpatch.apply(model, "pai")`.
"""

from __future__ import annotations

import torch
from pydantic import Field

from attnpatch.decoding.branch import Branch
from attnpatch.decoding.companion import Companion
from attnpatch.decoding.contrast import ContrastProcessor, ruled_out
from attnpatch.decoding.prompts import pictured_prompts
from attnpatch.patching.configured import Config, TextOnly


class GuidanceConfig(Config):
    gamma: float = Field(1.1, gt=0, description="weight of what the image adds; 1 adds nothing, PAINT takes 2")
    cut: float = Field(
        0.1, ge=0, le=1, description="tokens below this share of the most probable one's probability are ruled out"
    )
    text_only: TextOnly = "error"


class ImageGuidance(Companion):
    """gamma (lp - ln) + ln, with lp the log-probabilities with the image and ln those without it."""

    name = "guidance"
    Config = GuidanceConfig
    summary = "classifier-free guidance: pushes logits away from those of the prompt without its image"
    paper = "Paying More Attention to Image, ECCV 2024, arXiv 2407.21771; PAINT, arXiv 2501.12206"
    neutral = "gamma = 1 and cut = 0"
    limits = "one more forward per token; wrapper tokens of an image that the config does not name stay in its prompt"
    evidence = (
        "runs as published; PAI's tables were not reproduced here, and users of its code report CHAIR_S from 29 to 45 "
        "where the paper has 25"
    )
    neutral_options = {"gamma": 1.0, "cut": 0.0}
    small_options = ({"gamma": 4.0}, {"gamma": 2.0, "cut": 0.0})

    def processor(self, model, inputs):
        prompts = pictured_prompts(self, model, inputs)
        without = prompts.without_images() if prompts.images.any else {}
        return ContrastProcessor(prompts, Branch(prompts.model, without, images=False), self.combine)

    def combine(self, with_image: torch.Tensor, without: torch.Tensor) -> torch.Tensor:
        """New logits `[R, V]` of those with the image and without it."""
        lp, ln = with_image.log_softmax(-1), without.log_softmax(-1)
        # The paper's gamma (lp - ln) + ln, written so that gamma = 1 gives lp to the last bit.
        guided = lp + (self.config.gamma - 1) * (lp - ln)
        return guided.masked_fill(ruled_out(lp, self.config.cut), -torch.inf)
