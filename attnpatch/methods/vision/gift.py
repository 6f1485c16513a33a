"""gift: image tokens that the eye jumps to while it reads the question weigh more while the answer is generated.

Source: "GIFT", gaze-shift guided cross-modal fusion enhancement, ICML 2026, arXiv 2510.22067.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import ConfigDict, Field

from attnpatch.methods.vision.base import VisionConfig, VisionMethod, answer_rows
from attnpatch.methods.vision.depth import Layers
from attnpatch.methods.vision.emphasis import emphasised
from attnpatch.methods.vision.known import known_options
from attnpatch.methods.vision.reading import IN_ONE_PIECE, Reading
from attnpatch.methods.vision.vocabulary import (
    Content,
    TokenizerOption,
    Vocabulary,
    find_tokenizer,
    require_fit,
    special_tokens,
)
from attnpatch.patching.edits import Change, RowsAt
from attnpatch.patching.errors import AttnPatchError, UnsupportedCallError
from attnpatch.patching.layers import select_layers
from attnpatch.patching.method import register

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call
    from attnpatch.patching.images import ImageHost

ALPHA = 5.0


class GIFTConfig(VisionConfig):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    alpha: float | None = Field(
        None, ge=0, le=50, description="the most salient image token weighs e^alpha times more. Default: 5, Qwen2-VL 4"
    )
    beta: float = Field(
        1.0, gt=0, description="the question's factor, times the growth of attention to the image in that layer"
    )
    saliency_layer: int | None = Field(
        None,
        ge=0,
        description="layer whose attention tells the salient image tokens. Default: known, or the profile's",
    )
    layers: Layers | None = Field(
        None,
        description="layers that are changed, such as '12:23' (end excluded) or indices. Default: known, or the "
        "profile's",
    )
    head_share: float = Field(
        0.5, gt=0, le=1, description="share of a layer's heads that look most at the image, or at the question"
    )
    deviations: float = Field(
        3.0, gt=0, description="saliency is clamped at so many standard deviations from its mean over the image"
    )
    content: Content = Field(
        "stopword",
        description="words of the question that are read: all but stop words, those that spaCy tags as content, or "
        "every token",
    )
    tokenizer: TokenizerOption = Field(
        None, description="tokenizer or processor, or where it is; by default the model's own. content=all needs none"
    )
    tail: str | None = Field(
        None, description="text behind the question, such as ' ASSISTANT:'. Default: what the chat template puts there"
    )


@register("gift")
class GIFT(VisionMethod):
    """Image tokens A_j w_j and question tokens A_j beta r in half of the heads each, then renormalised.

    w_j = exp(alpha s_j), where s_j is how much attention to j grows from a token to the next at the content words of
    the question, 0 to 1 over the image; r is the factor by which attention to the image grows. In the rows that
    predict an answer token.
    """

    Config = GIFTConfig
    summary = (
        "weights image tokens by how attention jumps to them while the question is read, and the question with it"
    )
    paper = "GIFT, ICML 2026, arXiv 2510.22067"
    neutral = "alpha = 0 and beta = 1"
    limits = (
        "the question must follow the image; a prompt runs twice where the saliency layer is not before the changed "
        "ones; the stop words are English"
    )
    evidence = (
        "agrees with both stages written out on every family with image tokens. The authors' CHAIR_S, 50.2 to 39.8 on "
        "LLaVA-1.5-7B, is not reproduced here; a third party measured 43.6 by their settings"
    )
    neutral_options = {"alpha": 0.0}
    example_options = {"saliency_layer": 2, "layers": "3:"}
    small_options = (  # untrained weights look at everything alike, so that nothing is salient: beta acts there
        {"alpha": 3.0, "beta": 3.0, "saliency_layer": 0, "layers": (1,), "content": "all"},
        {"alpha": 3.0, "beta": 3.0, "saliency_layer": 1, "layers": (0, 1), "content": "all"},
    )
    reads_whole_prompt = True

    def __init__(self, config: GIFTConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.alpha = ALPHA
        self.saliency_layer: int | None = None
        self.enhanced: Any = None  # predicate over layers
        self.vocabulary = Vocabulary(set())
        self._twice = False  # does the saliency layer come too late to be read in passing?

    @classmethod
    def calibrate(cls, model, batches, *, content: Content = "stopword", tokenizer: Any = None):
        from attnpatch.methods.vision.gift_measured import find_layer

        return find_layer(model, batches, content=content, tokenizer=tokenizer)

    @property
    def active(self) -> bool:
        return self.alpha != 0 or self.config.beta != 1

    def meet(self, host):
        super().meet(host)
        config, text = self.config, host.text_config
        found = known_options(self.name, text)
        given = config.model_dump(exclude_none=True, include={"alpha", "saliency_layer", "layers"})
        settings = {"alpha": ALPHA, **found, **given}
        self.alpha = settings["alpha"]
        if not self.active:
            return
        self._require_layers(settings, host)
        depth = text.num_hidden_layers
        self.enhanced = select_layers(settings["layers"], depth)
        self.saliency_layer = settings["saliency_layer"] if self.alpha else None
        if self.saliency_layer is not None and self.saliency_layer >= depth:
            raise AttnPatchError(
                f"gift: saliency_layer={self.saliency_layer} does not exist: the model has layers 0..{depth - 1}."
            )
        self.vocabulary = vocabulary(host, config)

    def _require_layers(self, settings: dict[str, Any], host: ImageHost) -> None:
        needed = ["layers", *(["saliency_layer"] if self.alpha else [])]
        missing = [name for name in needed if name not in settings]
        if missing:
            raise AttnPatchError(
                f"gift: {' and '.join(missing)} of {type(host.module).__name__} are not known for a model of this "
                "shape. Find them with `attnpatch calibrate gift MODEL --images DIR --output FILE` and pass "
                "profile=FILE, or name them, such as saliency_layer=11, layers='12:23'."
            )

    def check(self, site):
        if self.active and site.layer != self.saliency_layer and not self.enhanced(site.layer):
            return "neither the saliency layer nor one of the layers that are changed"
        return super().check(site)

    def prepare(self, sites, model):
        super().prepare(sites, model)
        changed = [site.layer for site in sites if self.active and self.enhanced(site.layer)]
        if not self.active:
            return
        if self.saliency_layer is not None and self.saliency_layer not in {site.layer for site in sites}:
            raise AttnPatchError(
                f"gift reads saliency_layer={self.saliency_layer}, which cannot be patched or was not selected."
            )
        if not changed:
            raise AttnPatchError("gift: none of the layers to be changed can be patched; name others with layers=.")
        self._twice = self.saliency_layer is not None and self.saliency_layer >= min(changed)

    def begin(self, forward):
        if not self.active:
            return
        if forward.samples is not None:
            raise UnsupportedCallError("gift takes one prompt per row; run packed samples each by itself.")
        if forward.prompt_end > forward.q_len:
            raise UnsupportedCallError(IN_ONE_PIECE)
        reading = Reading.of(forward.given, forward.prompt_end, self.vocabulary)
        forward.state[self] = reading
        if self._twice:
            forward.given.again(reading)

    def attend(self, call, inner):
        aside = call.forward.aside
        if aside is not None:
            if isinstance(aside, Reading) and call.layer == self.saliency_layer and self._twice:
                self._read(aside, call)
            return inner(call)
        if call.images is None or not self.active:
            return inner(call)
        reading: Reading | None = call.forward.in_whole()[0].state.get(self)
        if reading is None or (call.offset and call.forward.prompt_end > call.offset):
            raise UnsupportedCallError(IN_ONE_PIECE)
        if call.layer == self.saliency_layer and not self._twice and not call.offset:
            self._read(reading, call)
        if self.enhanced(call.layer):
            self.edit_rows(call, answer_rows, self._emphasise)
        return inner(call)

    def _emphasise(self, call: Call) -> Change:
        whole, batch = call.forward.in_whole()
        reading, config = whole.state[self], self.config

        def emphasise(weights: torch.Tensor, at: RowsAt) -> tuple[torch.Tensor, None]:
            parts = reading.parts_at(at.key_first, weights)
            parts = at.of(parts if batch is None else parts[list(batch)])
            return emphasised(weights, parts, beta=config.beta, share=config.head_share, plain=at.plain), None

        return emphasise

    def _read(self, reading: Reading, call: Call) -> None:
        config = self.config
        reading.read(call, alpha=self.alpha, deviations=config.deviations, share=config.head_share)


def vocabulary(host: ImageHost, config: GIFTConfig) -> Vocabulary:
    """What the tokens of the model's prompts mean.

    Raises AttnPatchError where a tokenizer is needed and not found, and for that of another model.
    """
    special = special_tokens(host.text_config) | set(host.wrappers)
    if config.content == "all" and config.tokenizer is None and config.tail is None:
        return Vocabulary(special)
    tokenizer = find_tokenizer(config.tokenizer, host.module.config.name_or_path, "gift")
    require_fit(tokenizer, host, "gift")
    return Vocabulary(special, tokenizer, config.content, config.tail)
