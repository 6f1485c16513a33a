"""sgrs: sampled tokens are rejected where they hang on little of what was written before.

Source: "Hallucination Begins Where Saliency Drops", ICLR 2026, arXiv 2601.20279. The released code reads the saliency
of the candidate's own row, whose gradient is zero because nothing depends on it, and so accepts every candidate; here
it is the row that predicts the candidate.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from attnpatch.decoding.companion import Companion
from attnpatch.decoding.prompts import read_prompts
from attnpatch.decoding.rejection import RejectionLoop
from attnpatch.decoding.saliency import Norm
from attnpatch.patching.configured import Config
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.sites import inspect_model


class SGRSConfig(Config):
    candidates: int = Field(5, ge=1, description="K: the most probable tokens, of which one is sampled")
    tries: int = Field(3, ge=1, description="R: tokens that are sampled before the most salient candidate is taken")
    window: int = Field(5, ge=1, description="W: accepted tokens whose mean score sets the threshold")
    alpha: float = Field(0.6, ge=0, description="share of that mean which a token must reach; 0 accepts all")
    layers: list[int] | None = Field(
        None, min_length=1, description="layers whose attention is read, from 0; by default 6, 7, 8 of 32, scaled"
    )
    norm: Norm = Field(
        "row", description="norm that saliency is divided by: the row's, or that of all rows, which needs a full pass"
    )
    include_prompt: bool = Field(False, description="count the prompt's tokens behind the image as earlier output")


class SaliencyRejection(Companion):
    """Sample from the top K; reject a token whose saliency over earlier output is below a share of the recent mean."""

    name = "sgrs"
    Config = SGRSConfig
    summary = "samples tokens and rejects those that depend little on what was written before"
    paper = "Hallucination Begins Where Saliency Drops, ICLR 2026, arXiv 2601.20279"
    neutral = "alpha = 0: plain top-K sampling"
    limits = (
        "one sequence at a time, sampling only; a backward pass over the layers from the lowest read on per candidate"
    )
    evidence = (
        "runs; the released code accepts every candidate, and an independent rerun of it found captions equal to "
        "greedy ones"
    )
    neutral_options = {"alpha": 0.0}
    small_options = ({"alpha": 1.5, "layers": [0, 1]},)
    one_row = True

    def settings(self, model, inputs) -> dict[str, Any]:
        ids = inputs["input_ids"]
        if len(ids) != 1:
            raise AttnPatchError(f"companion 'sgrs' takes one prompt at a time, got {len(ids)}; run them one by one.")
        self._check_layers(model)
        first = ids.shape[1]
        if self.config.include_prompt:
            first = int(read_prompts(model, inputs).images.stop[0])
        loop = RejectionLoop(self.config, first)
        return {"custom_generate": loop, "do_sample": True, "top_k": self.config.candidates}

    def _check_layers(self, model) -> None:
        total = inspect_model(model).layers
        wrong = [layer for layer in self.config.layers or [] if not 0 <= layer < total]
        if wrong:
            raise AttnPatchError(
                f"option layers={self.config.layers!r} of companion 'sgrs' names {wrong}, and the model has {total} "
                f"layers; allowed are 0 to {total - 1}."
            )
