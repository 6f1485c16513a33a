"""icd: logits contrasted with those that a disturbed instruction gives.

Source: "Mitigating Hallucinations in Large Vision-Language Models with Instruction Contrastive Decoding", ACL 2024
Findings, arXiv 2403.18715. The disturbance is a few words put before the instruction, such as "You are a confused
object detector."
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from attnpatch.decoding.branch import Branch
from attnpatch.decoding.companion import Companion
from attnpatch.decoding.contrast import ContrastProcessor
from attnpatch.decoding.prompts import Prompts, pictured_prompts
from attnpatch.decoding.vcd import ContrastConfig, contrasted
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.text_only import PER_TOKEN


class ICDConfig(ContrastConfig):
    prefix_ids: list[int] = Field(
        min_length=1, description="token ids of the disturbance, put behind the last image token of each prompt"
    )


class InstructionContrast(Companion):
    """(1 + alpha) z - alpha z(disturbed instruction), for tokens that are plausible under z."""

    name = "icd"
    Config = ICDConfig
    summary = "instruction contrastive decoding: pushes logits away from those that a disturbed instruction gives"
    paper = "Instruction Contrastive Decoding, Findings of ACL 2024, arXiv 2403.18715"
    neutral = "alpha = 0 and beta = 0"
    limits = "one more forward per token, one more encoding per image; the disturbance is given as token ids"
    evidence = "runs; its tables were not reproduced here"
    neutral_options = {"alpha": 0.0, "beta": 0.0, "prefix_ids": [11, 12]}
    example_options = {"prefix_ids": [11, 12], "alpha": 0.5}
    small_options = ({"alpha": 4.0, "prefix_ids": [11, 12]},)

    def processor(self, model, inputs):
        prompts = pictured_prompts(self, model, inputs)
        other = self._disturbed(prompts) if prompts.images.any else {}
        return ContrastProcessor(prompts, Branch(prompts.model, other, images=True), self.combine)

    def combine(self, clear: torch.Tensor, disturbed: torch.Tensor) -> torch.Tensor:
        """New logits `[R, V]` of those of the clear branch and of the disturbed one."""
        return contrasted(clear, disturbed, self.config)

    def _disturbed(self, prompts: Prompts) -> dict[str, Any]:
        inputs = prompts.with_images()
        vocabulary = prompts.model.config.get_text_config().vocab_size
        outside = [token for token in self.config.prefix_ids if not 0 <= token < vocabulary]
        if outside:
            raise AttnPatchError(
                f"option prefix_ids of companion 'icd' names {outside}, outside of 0..{vocabulary - 1}."
            )
        stops = prompts.images.stop[prompts.rows].tolist()
        for name in (*PER_TOKEN, "attention_mask"):
            if inputs.get(name) is not None:
                new = {"input_ids": self.config.prefix_ids, "attention_mask": [1] * len(self.config.prefix_ids)}
                put = torch.tensor(new.get(name, [0] * len(self.config.prefix_ids))).to(inputs[name])
                rows = zip(inputs[name], stops, strict=True)
                inputs[name] = torch.stack([torch.cat([row[:stop], put, row[stop:]]) for row, stop in rows])
        return inputs
