"""A pass through the text model that is recorded, to be run once more decoder layer by decoder layer."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from attnpatch.patching.dispatch import FORWARD_KEY
from attnpatch.patching.errors import UnsupportedCallError


class Steps:
    """The first decoder layers of one pass, each with what it was given, until it has been run again.

    layers: the layers, in the order they run.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = layers
        self._purpose: Any = None
        self._given: dict[int, tuple[tuple, dict]] = {}  # arguments by layer
        self._last: torch.Tensor | None = None

    @contextmanager
    def recording(self, purpose: Any) -> Iterator[None]:
        """Record the pass for this purpose (see `Given`) that runs in the `with` block."""
        self._purpose = purpose
        handles = [layer.register_forward_pre_hook(self._enter, with_kwargs=True) for layer in self.layers]
        handles += [layer.register_forward_hook(self._leave, with_kwargs=True) for layer in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            # What the purpose holds may hold this object: no circle that waits for the garbage collector.
            self._purpose = self._last = None

    def _is_mine(self, kwargs: dict) -> bool:
        forward = kwargs.get(FORWARD_KEY)  # another thread may run the same layers
        return forward is not None and forward.aside is self._purpose

    def _enter(self, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        if not self._is_mine(kwargs):
            return
        number = len(self._given)
        if number and _hidden(args, kwargs) is not self._last:
            raise UnsupportedCallError(
                f"the text model changes the hidden states between its layers (before layer {number}), so a pass "
                "cannot be run layer by layer."
            )
        self._given[number] = (args, kwargs)

    def _leave(self, layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if self._is_mine(kwargs):
            self._last = _first(output)

    def start(self, layer: int) -> torch.Tensor:
        """Hidden states `[B, T, hidden]` that went into a layer; those before it will not be run."""
        for before in range(layer):
            del self._given[before]
        return _hidden(*self._given[layer])

    def run(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """What a layer makes of `hidden` `[B, T, hidden]`, everything else as it was recorded; once per layer."""
        args, kwargs = self._given.pop(layer)
        if args:
            args = (hidden, *args[1:])
        else:
            kwargs = {**kwargs, "hidden_states": hidden}
        # In a context of its own, so that transformers does not take it for a layer of the pass it is collecting
        # hidden states and attentions of.
        return _first(contextvars.Context().run(self._call, self.layers[layer], args, kwargs))

    @staticmethod
    @torch.no_grad()
    def _call(layer: nn.Module, args: tuple, kwargs: dict) -> Any:
        return layer(*args, **kwargs)


def _hidden(args: tuple, kwargs: dict) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
