"""stochastic: a sliding window over a random order of the tokens, causal by their original order.

Source: "Stochastic Attention", arXiv 2604.00754. The paper leaves open whether heads share the permutation and what
`w_eff` counts; the knobs `per_head` and `budget` cover both readings. Rows of equal length share a permutation, so
that a prompt gives the same result alone and in a batch, and all beams of a prompt agree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from pydantic import Field

from attnpatch.kernels import PermutedBuckets, PermutedWindow, Window
from attnpatch.patching.method import Config, Method, register


class StochasticConfig(Config):
    window: int = Field(1024, ge=1, description="budget per query, in the unit that `budget` names")
    budget: Literal["mean", "slots"] = Field(
        "mean",
        description="'mean': window = mean visible keys; 'slots': window = slots around a query, itself included",
    )
    circular: bool = Field(True, description="the window wraps around the ends of the shuffled order")
    resample: bool = Field(True, description="a new permutation for every sequence; False: fixed by seed and length")
    seed: int = Field(0, ge=0, description="base seed of the permutations")
    per_head: bool = Field(False, description="one permutation per key head instead of one per layer")
    sink: int = Field(0, ge=0, description="first tokens always visible (not in the paper)")
    local: int = Field(0, ge=0, description="last tokens always visible, itself included (not in the paper)")
    decode: Literal["dense", "sliding"] = Field("dense", description="what generated tokens see: all, or a window")
    variant: Literal["slots", "buckets"] = Field(
        "slots",
        description="'slots': the paper's operator; 'buckets': ours, a partition of the shuffled order, faster",
    )


@dataclass(frozen=True)
class Permutation:
    """Draws the order of `n` tokens from a seed: `[n]`, or `[heads, n]` with one order per head."""

    seed: int
    heads: int | None = None

    def __call__(self, n: int) -> torch.Tensor:
        return _draw(self.seed, self.heads, n)


@lru_cache(maxsize=64)
def _draw(seed: int, heads: int | None, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)  # always on CPU: the same order on every device
    orders = [torch.randperm(n, generator=generator) for _ in range(heads or 1)]
    return orders[0] if heads is None else torch.stack(orders)


def mix(*numbers: int) -> int:
    """One well-spread 63-bit seed from several integers, the same on every machine and in every process."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@register("stochastic")
class Stochastic(Method):
    """allowed(i, j) = j <= i and |slot(i) - slot(j)| <= half, with slots from a random permutation per layer."""

    Config = StochasticConfig
    summary = "a window over a random order of the tokens, drawn anew in every layer"
    paper = "Stochastic Attention, arXiv 2604.00754"
    neutral = "window >= (tokens + 1) / 2, circular"
    limits = "prefill only (decode is dense by default); layers with a window of their own are left alone"
    neutral_options = {"window": 1 << 20}
    small_options = (
        {"window": 3, "resample": False},
        {"window": 3, "resample": False, "per_head": True, "circular": False, "sink": 1, "local": 2},
        {"window": 3, "resample": False, "variant": "buckets", "decode": "sliding"},
    )
    depends_on_length = True
    replaces_keys = True

    def check(self, site):
        if site.kind == "sliding":
            return "the layer has a sliding window of its own"
        if self.config.per_head and not site.kv_heads:
            return "the number of key heads is unknown, per_head needs it"
        return super().check(site)

    def attend(self, call, inner):
        decode = Window(self.config.window, self.config.sink) if self.config.decode == "sliding" else None
        return call.attend_by_phase(self.rule(call), decode, inner)

    def rule(self, call) -> PermutedWindow | PermutedBuckets:
        """The rule of this call's layer and sequence."""
        config, forward = self.config, call.forward
        draw = forward.index if config.resample else 0
        heads = call.key.shape[1] if config.per_head else None
        order = Permutation(mix(config.seed, call.layer, draw), heads)
        length = call.prompt_length
        extra = {"sink": config.sink, "local": config.local, "length": length}
        if config.variant == "buckets":
            size = 2 * config.window - 1 if config.budget == "mean" else config.window
            return PermutedBuckets(order, size, **extra)
        if config.budget == "mean":
            before = after = config.window - 1
        else:  # an even number of slots has one more before the query than behind it
            before, after = config.window // 2, config.window // 2 + config.window % 2 - 1
        return PermutedWindow(order, before, after, config.circular, **extra)
