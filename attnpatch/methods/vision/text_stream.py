"""The prompt without its images, which runs beside the prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from attnpatch.patching.asides import Given
    from attnpatch.patching.calls import Call
    from attnpatch.patching.method import Method
    from attnpatch.patching.steps import Steps

Decide = Callable[[torch.Tensor], torch.Tensor]  # gains [R, H] of the heads, from their outputs [R, H, Dv]
Attended = tuple[torch.Tensor, torch.Tensor | None]


class TextStream:
    """What the heads put out at the last token of the prompts without images, layer by layer.

    In one pass all outputs are those of the model as it is. In lock step (`steps` is given) the gains chosen in a
    layer hold in this stream too: a layer runs when the prompt itself has come to it.

    Attributes:
        owner: the method that runs it.
        rows: numbers of the batch rows that have an image, `[R]`.
    """

    def __init__(self, owner: Method, steps: Steps | None, everywhere: bool) -> None:
        """steps: the layers from the first to the last one that is asked for. everywhere: gains hold at all tokens."""
        self.owner = owner
        self.everywhere = everywhere
        self.steps = steps
        self.outputs: dict[int, torch.Tensor] = {}  # by layer [R, H, Dv]
        self.rows: torch.Tensor
        self._decide: Decide | None = None
        self._gain: torch.Tensor
        self._next = 0  # layer that the lock step has come to
        self._hidden: torch.Tensor | None = None  # what goes into it

    def run(self, given: Given, *, drop_wrappers: bool) -> None:
        """The pass over the text alone."""
        if self.steps is None:
            self.rows = given.without_images(self, drop_wrappers=drop_wrappers)
            return
        with self.steps.recording(self):
            self.rows = given.without_images(self, drop_wrappers=drop_wrappers)

    def attended(self, call: Call, attended: Attended) -> Attended:
        """What the attention of a layer gives in this stream, with the gains that `decide` makes of it."""
        output, weights = attended
        last = output[:, -1]  # the pass is left-padded
        if self._decide is None:
            if self.steps is None:
                self.outputs[call.layer] = last
            return attended
        self._gain = self._decide(last)
        gain = self._gain[:, None, :, None].to(output.dtype)
        if self.everywhere:
            return output * gain, weights
        return torch.cat([output[:, :-1], output[:, -1:] * gain], 1), weights

    def gains(self, layer: int, decide: Decide) -> torch.Tensor:
        """Gains `[R, H]` of a layer, which `decide` makes of its heads' outputs `[R, H, Dv]` in this stream.

        Layers are asked for in the order they run.
        """
        if self.steps is None:
            return decide(self.outputs.pop(layer))
        if self._hidden is None:
            self._next, self._hidden = self.steps.first, self.steps.start()
        while self._next < layer:
            self._advance()
        self._decide = decide
        self._advance()
        self._decide = None
        return self._gain

    def _advance(self) -> None:
        self._hidden = self.steps.run(self._next, self._hidden)
        self._next += 1
