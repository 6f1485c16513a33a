"""A pass through the text model that goes on decoder layer by decoder layer, when it is asked to."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from attnpatch.patching.dispatch import FORWARD_KEY
from attnpatch.patching.errors import UnsupportedCallError

_ONE_AT_A_TIME = threading.RLock()  # a layer's forward is replaced while a pass is recorded


class Steps:
    """A pass of which the first decoder layers have run, and what the others were given, until they are run.

    layers: all decoder layers, in the order they run; first, stop: the layers first..stop-1 are to be run.
    """

    def __init__(self, layers: Sequence[nn.Module], first: int, stop: int) -> None:
        self.layers = layers
        self.first = first
        self.stop = stop
        self._given: dict[int, tuple[tuple, dict]] = {}  # arguments by layer
        self._last: torch.Tensor | None = None
        self._in_tuple = False  # do layers return their output in a tuple?

    @contextmanager
    def recording(self, purpose: Any) -> Iterator[None]:
        """Record the pass for this purpose (see `Given`) that runs in the `with` block.

        The layers before the first one asked for are computed; the others hand on what they get, which is what hooks
        of others see there. The very first layer is always computed: it shows what a layer returns.
        """
        with _ONE_AT_A_TIME:
            replaced = [(layer, vars(layer).get("forward")) for layer in self.layers]
            leave = partial(self._leave, purpose)
            handles = [layer.register_forward_hook(leave, with_kwargs=True) for layer in self.layers]
            try:
                for number, layer in enumerate(self.layers):
                    vars(layer)["forward"] = partial(self._forward, purpose, number, layer.forward)
                yield
            finally:
                for handle in handles:
                    handle.remove()
                for layer, own in replaced:
                    if own is None:
                        vars(layer).pop("forward", None)
                    else:
                        vars(layer)["forward"] = own
                self._last = None

    def _forward(self, purpose: Any, number: int, computed: Callable, *args: Any, **kwargs: Any) -> Any:
        if not _runs_for(purpose, kwargs):  # another thread runs the same layers
            return computed(*args, **kwargs)
        hidden = _hidden(args, kwargs)
        if 0 < number < self.stop and hidden is not self._last:
            raise UnsupportedCallError(
                f"the text model changes the hidden states between its layers (before layer {number}), so a pass "
                "cannot be run layer by layer."
            )
        if self.first <= number < self.stop:
            self._given[number] = (args, kwargs)
        if number and number >= self.first:
            return (hidden,) if self._in_tuple else hidden
        output = computed(*args, **kwargs)
        self._in_tuple = isinstance(output, tuple)
        return output

    def _leave(self, purpose: Any, layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if _runs_for(purpose, kwargs):
            self._last = _first(output)  # as hooks before this one have left it

    def start(self) -> torch.Tensor:
        """Hidden states `[B, T, hidden]` that go into the first layer that is to be run."""
        return _hidden(*self._given[self.first])

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


def _runs_for(purpose: Any, kwargs: dict) -> bool:
    forward = kwargs.get(FORWARD_KEY)
    return forward is not None and forward.aside is purpose


def _hidden(args: tuple, kwargs: dict) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
