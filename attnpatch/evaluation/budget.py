"""Equal budgets: the mean number of visible keys per prefill query, counted on the rules a method really asks for.

No model runs here: a probe call stands in for one full attention layer, records the rule that the method attends
under and counts its pairs, the same count that `patch.report()` gives for a real forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attnpatch.evaluation.errors import SkipCell
from attnpatch.kernels import Causal
from attnpatch.patching.calls import Call
from attnpatch.patching.forward import Forward
from attnpatch.patching.method import build_config, method_class
from attnpatch.patching.sites import Site

PROBED_LAYERS = 2  # a random permutation's pairs differ a little from layer to layer


class _Probe(Call):
    """A prompt's call at one layer, with tensors that hold no data."""

    def __init__(self, layer: int, length: int, kv_heads: int) -> None:
        site = Site(f"layer {layer}", layer, "full", None, kv_heads, kv_heads, "sdpa", True, False, False)
        tokens = torch.zeros(()).expand(1, kv_heads, length, 1)
        super().__init__(site, Forward(q_len=length), None, None, tokens, tokens, tokens, None, None, {})
        self.pairs: float = 0

    def attend(self, rule, *, rows: slice | None = None):
        first, last, _ = (rows or slice(None)).indices(self.query.shape[2])
        self.pairs += rule.pairs(first, last, self.query.shape[2])
        return self.query[:, :, first:last].transpose(1, 2), None

    def stock(self):
        return self.attend(Causal())


def dense_mean(length: int) -> float:
    """Mean visible keys of full causal attention over `length` tokens."""
    return (length + 1) / 2


def mean_keys(name: str, config: dict[str, Any], length: int, *, kv_heads: int = 2) -> float:
    """Mean visible keys per query of one prompt of `length` tokens at a full attention layer.

    `kv_heads` matters to methods that differ per head.
    """
    method_type = method_class(name)
    method = method_type(build_config(method_type, config))
    pairs = 0.0
    for layer in range(PROBED_LAYERS):
        call = _Probe(layer, length, kv_heads)
        with torch.no_grad():
            method.attend(call, lambda inner_call: inner_call.stock())
        pairs += call.pairs
    return pairs / (PROBED_LAYERS * length)


def match_budget(measure: Callable[[int], float], target: float, length: int) -> int:
    """The integer setting in 1..length whose measured mean keys come closest to `target`.

    `measure` must not fall as its argument grows. The lower setting wins a tie.

    Raises:
        SkipCell: the target is at or above dense attention, or below what the smallest setting spends.
    """
    if target >= dense_mean(length):
        raise SkipCell(
            f"a budget of {target:g} mean keys is full attention at {length} tokens ({dense_mean(length):g})",
            "take a smaller --budgets or longer --lengths",
        )
    low, high = 1, length
    floor = measure(low)
    if floor > target * 1.05:
        raise SkipCell(
            f"the smallest window spends {floor:.1f} mean keys, above the budget of {target:g}",
            "take a larger --budgets, or smaller sink= and local=",
        )
    while high - low > 1:  # invariant: measure(low) <= target, or low == 1
        middle = (low + high) // 2
        if measure(middle) <= target:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda value: (abs(measure(value) - target), value))
