"""locore: a token that is being generated attends a little more to the last few generated ones.

Source: "Hallucination Begins Where Saliency Drops", ICLR 2026, arXiv 2601.20279 (its other half, which rejects sampled
tokens, is a way of decoding). The authors do not release this half: the window and the renormalisation are chosen
here, and the layers are those of another hook in their code.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from attnpatch.methods.vision.base import VisionConfig, VisionMethod, generated_rows
from attnpatch.methods.vision.depth import Layers, outside
from attnpatch.methods.vision.factors import reweighted
from attnpatch.methods.vision.known import known_options
from attnpatch.patching.edits import Change, RowsAt
from attnpatch.patching.method import register

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call

LAYERS = range(9, 15)  # of 32 layers
BETA = 0.15


class LocoREConfig(VisionConfig):
    beta: float | None = Field(
        None,
        ge=0,
        description="attention to a recent generated token grows by this share. Default: .15, on Qwen2-VL .20",
    )
    window: int = Field(
        8, ge=-1, description="tokens before the generated one that count as recent, itself not counted; -1: none"
    )
    layers: Layers | None = Field(
        None,
        description="layers that are changed, such as '9:15' (end excluded) or indices. Default: 9..14 of 32, on a "
        "model of another depth the same share of it",
    )
    text_rows: bool = Field(
        False, description="change prompts without an image too (a batch without any, with text_only='stock')"
    )


@register("locore")
class LocoRE(VisionMethod):
    """A_j (1 + beta [j generated, i - j <= window]) / sum, after the softmax, in the rows i of generated tokens."""

    Config = LocoREConfig
    summary = "raises a generated token's attention to the last few generated tokens"
    paper = "Hallucination Begins Where Saliency Drops, ICLR 2026, arXiv 2601.20279"
    neutral = "beta = 0"
    limits = "its code is unreleased and its numbers were not reproduced elsewhere; window and layers are chosen here"
    evidence = (
        "agrees with the formula written out on every family with image tokens. The authors' code is not public, and "
        "an independent rerun found CHAIR and POPE unchanged at the paper's beta, as we do on the sandbox model"
    )
    neutral_options = {"beta": 0.0}
    example_options = {"beta": 0.15, "layers": "1:"}
    small_options = ({"beta": 0.5}, {"beta": 1.0, "window": 1, "layers": (0, 1)})

    def check(self, site):
        return outside(site, self.config.layers, LAYERS) or super().check(site)

    def meet(self, host):
        super().meet(host)
        known = known_options(self.name, host.text_config).get("beta", BETA)
        self.beta = known if self.config.beta is None else self.config.beta

    def attend(self, call, inner):
        if self.beta and self.config.window >= 0:
            self.edit_rows(call, partial(generated_rows, text_rows=self.config.text_rows), self._raised)
        return inner(call)

    def _raised(self, call: Call) -> Change:
        prompt, factors = call.forward.prompt_end, {}

        def raised(weights: torch.Tensor, at: RowsAt) -> tuple[torch.Tensor, None]:
            key = (at.key_first, weights.shape[-2:], weights.device)
            if factors.get("first") != at.first:  # the next token: what was kept for the one before is done with
                factors.clear()
                factors["first"] = at.first
            if key not in factors:
                factors[key] = self.beta * recent(weights, at, prompt, self.config.window)
            return reweighted(weights, factors[key], plain=at.plain), None

        return raised


def recent(weights: torch.Tensor, at: RowsAt, prompt: int, window: int) -> torch.Tensor:
    """1 where a key is a generated token at most `window` before the row's own, `[R, K]` for weights `[B, H, R, K]`.

    prompt: absolute index of the first generated token.
    """
    rows, keys = weights.shape[-2:]
    before = max(prompt - at.key_first, at.first - window - at.key_first, 0)
    if rows == 1:  # a step of decoding
        near = weights.new_zeros(1, keys)
        near[:, before : at.first + 1 - at.key_first] = 1
        return near
    row = torch.arange(at.first, at.first + rows, device=weights.device)[:, None]
    key = torch.arange(at.key_first, at.key_first + keys, device=weights.device)
    return ((key >= prompt) & (key <= row) & (row - key <= window)).to(weights.dtype)
