"""The second branch of a contrast: another prompt of the same model, continued with the tokens of the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from attnpatch.decoding.continuation import Continuation, prepare
from attnpatch.patching.beside import beside
from attnpatch.patching.own_positions import OwnPositions


class Branch:
    """Prompts that run beside those of a `generate` call, over a cache and positions of their own.

    images: the prompts hold the same images as those of the first branch, and patched methods act on them; without,
    methods about images let them through.
    """

    def __init__(self, model: PreTrainedModel, inputs: Mapping[str, Any], *, images: bool) -> None:
        self._model = model
        self._inputs = inputs
        self._images = images
        self._positions = OwnPositions(model)
        self._continuation: Continuation | None = None

    @torch.no_grad()
    def prompt(self, copies: int) -> torch.Tensor:
        """Run the prompts, each as `copies` rows one behind the other; logits `[B * copies, V]` fp32."""
        with self._beside():
            self._continuation = Continuation(self._model, *prepare(self._model, self._inputs, copies))
            return self._continuation.prompt()

    @torch.no_grad()
    def feed(self, tokens: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
        """Run one more token `[B * copies]`; row i goes on from row `order[i]` first, where beams were reordered."""
        with self._beside():
            if order is not None:
                self._continuation.reorder(order)
            return self._continuation.feed(tokens)

    @contextmanager
    def _beside(self) -> Iterator[None]:
        with beside(self._model, images=self._images), self._positions.inside():
            yield
