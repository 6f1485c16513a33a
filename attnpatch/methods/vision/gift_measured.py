"""Which layer of a model tells best where the image is looked at while a question is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from attnpatch.methods.vision.base import VisionMethod
from attnpatch.methods.vision.gift import GIFT, vocabulary
from attnpatch.methods.vision.reading import Reading
from attnpatch.patching import apply
from attnpatch.patching.errors import AttnPatchError

if TYPE_CHECKING:
    from torch import nn

    from attnpatch.methods.vision.vocabulary import Content, Vocabulary


class _Gaze(VisionMethod):
    """Changes nothing and adds up the positive gaze shift of every layer."""

    name = "gift"

    def __init__(self, content: Content, tokenizer: Any) -> None:
        super().__init__(text_only="stock")
        self._wanted = GIFT(content=content, tokenizer=tokenizer).config
        self._vocabulary: Vocabulary
        self.totals: dict[int, float] = {}
        self.prompts = 0

    def meet(self, host):
        self._vocabulary = vocabulary(host, self._wanted)

    def begin(self, forward):
        reading = Reading.of(forward.given, forward.prompt_end, self._vocabulary)
        self.prompts += reading.prompts
        forward.memo[id(self)] = reading

    def attend(self, call, inner):
        reading: Reading | None = call.forward.memo.get(id(self))
        if reading is not None:
            shift = reading.shift(call)
            on_image = shift * reading.image.to(shift.device)[:, None]
            self.totals[call.layer] = self.totals.get(call.layer, 0.0) + float(on_image.sum())
        return inner(call)


def find_layer(
    model: nn.Module, batches: Iterable[dict[str, Any]], *, content: Content = "stopword", tokenizer: Any = None
) -> dict[str, Any]:
    """The options saliency_layer and layers of gift for `model`, and under "details" what was measured.

    The saliency layer is the one with the largest total positive gaze shift: the growth of attention to image tokens
    from one token to the next, over all heads and the content tokens of all questions. The paper picks the layers to
    be changed per model and gives no rule; here they are all layers behind it, so the last layer is not a candidate.
    Under "details" are the "layers" and their "shift", a mean over the prompts, and the number of "prompts".

    batches: inputs as the processor makes them; content, tokenizer: as in gift. Raises AttnPatchError where no prompt
    has an image and a question behind it.
    """
    gaze = _Gaze(content, tokenizer)
    with apply(model, gaze), torch.no_grad():
        for inputs in batches:
            model(**{**inputs, "use_cache": False})
    if not gaze.prompts:
        raise AttnPatchError(
            "gift is calibrated on questions behind an image, and none was given; give a handful of images."
        )
    layers = sorted(gaze.totals)
    shift = [gaze.totals[layer] / gaze.prompts for layer in layers]
    if len(layers) < 2:
        raise AttnPatchError("gift changes layers behind the one it reads, and the model has a single one.")
    best = max(layers[:-1], key=lambda layer: gaze.totals[layer])
    return {
        "saliency_layer": best,
        "layers": f"{best + 1}:",
        "details": {"layers": layers, "shift": shift, "prompts": gaze.prompts},
    }
