"""vhr: the heads whose output depends most on the image speak louder.

Source: "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence", ACL 2025, arXiv 2412.13949.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from attnpatch.methods.vision.base import VisionConfig, VisionMethod
from attnpatch.methods.vision.depth import Layers
from attnpatch.methods.vision.heads import above_median, head_divergence, text_activation, without_outliers
from attnpatch.methods.vision.text_stream import TextStream
from attnpatch.patching.errors import UnsupportedCallError
from attnpatch.patching.layers import select_layers
from attnpatch.patching.method import register
from attnpatch.patching.steps import Steps

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call

IN_ONE_PIECE = (
    "vhr chooses heads from the whole prompt, and here a part of a prompt came by itself. Run the prompt in one piece "
    "(without prefill_chunk_size) and with a cache of its own, and apply vhr before it."
)
PAPER_SHARE = 14 / 32  # last layers that the paper reinforces, beside layer 1


def paper_layers(depth: int) -> list[int]:
    """The paper's layers for a model of `depth` layers: layer 1 and the last 44 %.

    >>> paper_layers(32) == [1, *range(18, 32)]
    True
    """
    last = max(1, int(PAPER_SHARE * depth + 0.5))
    return sorted({min(1, depth - 1), *range(depth - last, depth)})


class VHRConfig(VisionConfig):
    alpha: float = Field(2.0, ge=0, description="factor of the chosen heads' output; text breaks down from 4 on")
    layers: Layers = Field(
        "paper",
        description="layers whose heads are chosen: paper (1 and the last 44 %), indices, or text such as '1,18:32'",
    )
    rows: Literal["all", "last"] = Field(
        "all", description="prompt tokens at which heads are scaled: all of them, or the last one; generated ones are"
    )
    outlier_filter: bool = Field(
        True, description="leave out heads that stand out with the image and without it as well (eq. 6)"
    )
    reinforce_text: bool = Field(
        True,
        description="heads of a layer are scaled in the pass without images as well, before later layers are compared",
    )
    drop_wrappers: bool = Field(
        True, description="that pass lacks the tokens around an image too, where the model's config names them"
    )


@register("vhr")
class VHR(VisionMethod):
    """o_i <- alpha o_i for the heads i whose output at the last prompt token moves most when the image is taken away.

    Scales what the attention returns: the input of the output projection, before the gate of layers that have one.
    """

    Config = VHRConfig
    summary = "scales the half of the heads whose output depends most on the image, chosen once per prompt"
    paper = "Vision-aware Head Divergence, ACL 2025, arXiv 2412.13949"
    neutral = "alpha = 1"
    limits = "each prompt costs a pass over its text besides; prefill at once"
    evidence = (
        "runs on every family with image tokens and agrees with both streams written out by hand; the paper's numbers "
        "(CHAIR, LLaVA-1.5-7B) are not reproduced here, and nobody else's are known"
    )
    neutral_options = {"alpha": 1.0}
    example_options = {"alpha": 1.5, "layers": "2:"}
    small_options = ({}, {"layers": (0, 1), "rows": "last", "reinforce_text": False}, {"layers": (0, 1)})
    reads_whole_prompt = True

    def __init__(self, config: VHRConfig | None = None, **options) -> None:
        super().__init__(config, **options)
        self._decoder = ""  # where the text model holds its decoder layers
        self._chosen = range(0)  # those from the first to the last one whose heads are chosen

    @classmethod
    def calibrate(cls, model, batches):
        from attnpatch.methods.vision.vhr_measured import best_layers

        return best_layers(model, batches)

    def check(self, site):
        layers = self.config.layers
        chosen = paper_layers(site.layers) if layers == "paper" else layers
        return None if select_layers(chosen, site.layers)(site.layer) else f"layer not selected (layers={layers!r})"

    def prepare(self, sites, model):
        self._decoder = sites[0].name.rpartition(f".{sites[0].layer}.")[0]  # behind it: parts of the layer, wrappers
        layers = [site.layer for site in sites]
        self._chosen = range(min(layers), max(layers) + 1)

    def begin(self, forward):
        if forward.samples is not None:
            raise UnsupportedCallError("vhr takes one prompt per row; run packed samples each by itself.")
        if forward.prompt_end > forward.q_len:
            raise UnsupportedCallError(IN_ONE_PIECE)
        steps = None
        if self.config.reinforce_text and self.config.alpha != 1:
            layers = forward.given.base.get_submodule(self._decoder)
            steps = Steps(layers, self._chosen.start, self._chosen.stop)
        stream = TextStream(self, steps, everywhere=self.config.rows == "all")
        stream.run(forward.given, drop_wrappers=self.config.drop_wrappers)
        forward.memo[id(self)] = stream

    def attend(self, call, inner):
        attended = inner(call)
        aside = call.forward.aside
        if aside is not None:
            mine = isinstance(aside, TextStream) and aside.owner is self
            return aside.attended(call, attended) if mine else attended
        if call.images is None:
            return attended
        if call.offset and call.forward.prompt_end > call.offset:
            raise UnsupportedCallError(IN_ONE_PIECE)
        output, weights = attended
        known, key = call.forward.state, (self, call.layer)
        if key not in known:
            gain = self._gain(call, output)
            with torch.inference_mode(False):  # a later step may want gradients
                known[key] = gain.clone()
        return output * self._at_rows(call, known[key]), weights

    def heads(self, call: Call, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """The heads to be scaled, bool `[R, H]`, from the outputs `[R, H, Dv]` with and without the image."""
        divergence = head_divergence(image, text)
        if self.config.outlier_filter:
            divergence = without_outliers(divergence, text_activation(text))
        return above_median(divergence)

    @torch.no_grad()
    def _gain(self, call: Call, output: torch.Tensor) -> torch.Tensor:
        """Factors `[B, 1, H, 1]` for the whole sequence; 1 for rows without an image."""
        if call.forward.whole is not None:
            raise UnsupportedCallError(
                "vhr compares whole prompts, and a method around it splits the batch or the prompt; put vhr last in "
                "the list of methods, so that it is the outermost."
            )
        stream: TextStream | None = call.forward.memo.get(id(self))
        if stream is None:
            raise UnsupportedCallError(IN_ONE_PIECE)
        rows = stream.rows.to(output.device)
        image = output[rows, self._last(call)[rows]]

        def decide(text: torch.Tensor) -> torch.Tensor:
            return torch.where(self.heads(call, image, text), self.config.alpha, 1.0)

        gain = output.new_ones(output.shape[0], output.shape[2])
        gain[rows] = stream.gains(call.layer, decide).to(gain.dtype)
        return gain[:, None, :, None]

    def _at_rows(self, call: Call, gain: torch.Tensor) -> torch.Tensor:
        if self.config.rows == "all" or call.offset:
            return gain
        row = torch.arange(call.query.shape[2], device=gain.device)
        return torch.where((row >= self._last(call)[:, None])[:, :, None, None], gain, 1)

    def _last(self, call: Call) -> torch.Tensor:
        """Query row of each prompt's last token, `[B]`."""
        prompt, spans = call.forward.prompt_end, call.spans
        stops = [prompt] * call.query.shape[0] if spans is None else [min(prompt, stop) for _, stop in spans]
        return torch.tensor(stops, device=call.query.device) - 1
