"""vcd: logits contrasted with those that a noised image gives.

Source: "Mitigating Object Hallucinations in Large Vision-Language Models through Visual Contrastive Decoding", CVPR
2024, arXiv 2311.16922. The released code noises by a sigmoid schedule, which is `schedule="sigmoid"`.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from attnpatch.decoding.branch import Branch
from attnpatch.decoding.companion import Companion
from attnpatch.decoding.contrast import ContrastProcessor, ruled_out
from attnpatch.decoding.noise import STEPS, Schedule, kept_share, noised
from attnpatch.decoding.prompts import Prompts, pictured_prompts
from attnpatch.patching.configured import Config, TextOnly
from attnpatch.patching.errors import AttnPatchError

_PIXELS = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}


class ContrastConfig(Config):
    alpha: float = Field(0.5, ge=0, description="weight of the contrast; the paper's POPE runs take 1")
    beta: float = Field(
        0.1, ge=0, le=1, description="tokens below this share of the most probable one's probability are ruled out"
    )
    text_only: TextOnly = "error"


class VCDConfig(ContrastConfig):
    noise_step: int = Field(500, ge=0, le=STEPS, description="steps of noise, of 1000; 0 leaves the image as it is")
    schedule: Schedule = Field("linear", description="growth of the noise per step; the released code's is sigmoid")
    seed: int = Field(0, ge=0, description="seed of the noise, the same for every prompt")


class VisualContrast(Companion):
    """(1 + alpha) z(v) - alpha z(v noised), for tokens that are plausible under z(v)."""

    name = "vcd"
    Config = VCDConfig
    summary = "visual contrastive decoding: pushes logits away from those that a noised image gives"
    paper = "Visual Contrastive Decoding, CVPR 2024, arXiv 2311.16922"
    neutral = "alpha = 0 and beta = 0"
    limits = (
        "one more forward per token, one more encoding per image; greedy decoding differs from the sampled release"
    )
    evidence = (
        "runs as published; another paper's table has it no better than greedy decoding in captions (CHAIR_S 51.9 "
        "against 49.7 in VHR's)"
    )
    neutral_options = {"alpha": 0.0, "beta": 0.0}
    small_options = ({"alpha": 4.0}, {"alpha": 2.0, "beta": 0.0, "noise_step": 900})

    def processor(self, model, inputs):
        prompts = pictured_prompts(self, model, inputs)
        other = self._noised(prompts) if prompts.images.any else {}
        return ContrastProcessor(prompts, Branch(prompts.model, other, images=True), self.combine)

    def combine(self, clear: torch.Tensor, disturbed: torch.Tensor) -> torch.Tensor:
        """New logits `[R, V]` of those of the clear branch and of the disturbed one."""
        return contrasted(clear, disturbed, self.config)

    def _noised(self, prompts: Prompts) -> dict[str, Any]:
        inputs = prompts.with_images()
        found = [name for name in _PIXELS if inputs.get(name) is not None]
        if not found:
            raise AttnPatchError(
                "companion 'vcd' puts noise on pixels, and inputs hold none (pixel_values); give what the model's "
                "processor returns, not images that are encoded already (mm_encoder_outputs)."
            )
        kept = kept_share(self.config.noise_step, self.config.schedule)
        for name in found:
            grid = inputs.get(_PIXELS[name])
            still = name == "pixel_values" and grid is not None
            inputs[name] = noised(
                inputs[name],
                kept,
                self.config.seed,
                patches=None if grid is None else grid.prod(-1).tolist(),
                frames=prompts.model.config.vision_config.temporal_patch_size if still else 1,
            )
        return inputs


def contrasted(clear: torch.Tensor, disturbed: torch.Tensor, config: ContrastConfig) -> torch.Tensor:
    """(1 + alpha) clear - alpha disturbed `[R, V]`, -inf where clear rules a token out."""
    mixed = (1 + config.alpha) * clear - config.alpha * disturbed
    return mixed.masked_fill(ruled_out(clear, config.beta), -torch.inf)
