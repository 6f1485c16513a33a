"""The attention function that transformers calls, and the chain of methods behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from attnpatch.patching.budget import SiteStats
from attnpatch.patching.calls import Call, Inner
from attnpatch.patching.forward import Forward
from attnpatch.patching.masks import LazyMask, lazy_mask_for
from attnpatch.patching.method import Method
from attnpatch.patching.sites import BASES, PREFIX, Site, host_function

FORWARD_KEY = "attnpatch_forward"  # keyword that carries the Forward down to the attention function
HIDDEN_KEY = "attnpatch_hidden"  # keyword that carries the layer's input to it, for methods that ask for it
PLAN_KEY = "attnpatch_plan"  # entry in a patched module's __dict__


class Stock:
    """The end of every chain: the host's own attention."""

    def __call__(self, call: Call):
        return call.stock()


class Link:
    """One method at one site, with its counters; `inner` is the next link down."""

    __slots__ = ("inner", "method", "stats")

    def __init__(self, method: Method, inner: Inner, stats: SiteStats) -> None:
        self.method = method
        self.inner = inner
        self.stats = stats

    def __call__(self, call: Call):
        if torch.compiler.is_compiling():  # counters would be guards, and recompile at every call
            return self.method.attend(call, self.inner)
        stats = self.stats if call.forward.aside is None else None  # what a method runs for itself is not counted
        if stats is not None:
            stats.calls += 1
        outer, call.stats = call.stats, stats
        try:
            return self.method.attend(call, self.inner)
        finally:
            call.stats = outer


class SitePlan:
    """What a patched module runs: its site, the host function and the head of its chain."""

    __slots__ = ("chain", "host", "site", "traceable")

    def __init__(self, site: Site, module: nn.Module) -> None:
        self.site = site
        self.host = host_function(module, site.base)
        self.chain: Inner | None = None
        self.traceable = True


@torch.compiler.disable
def _run_untraced(chain: Inner, call: Call):
    call.forward.calls += 1
    return chain(call)


@torch.compiler.disable
def _run_packed(chain: Inner, call: Call):
    """Every sample of a packed row by itself: none sees another, and no mask of the whole row is built."""
    call.forward.calls += 1
    outputs = [chain(call.of_sample(number))[0] for number in range(len(call.forward.samples))]
    return torch.cat(outputs, dim=1), None


def hand_down_hidden(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Pre-hook of an attention module: its input goes along to the attention function."""
    hidden = kwargs.get("hidden_states", args[0] if args else None)
    return args, {**kwargs, HIDDEN_KEY: hidden}


def hand_down_residual(module: nn.Module, args: tuple, kwargs: dict) -> None:
    """Pre-hook of a decoder layer: its input is kept for the attention call inside it."""
    forward: Forward | None = kwargs.get(FORWARD_KEY)
    if forward is not None:
        forward.residual = kwargs.get("hidden_states", args[0] if args else None)


class Dispatcher:
    """The function registered as `attnpatch:<base>`: patched modules run their chain, all others the base."""

    def __init__(self, base: str) -> None:
        self.base = base

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **extra: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        forward: Forward | None = extra.pop(FORWARD_KEY, None)
        hidden: torch.Tensor | None = extra.pop(HIDDEN_KEY, None)
        plan: SitePlan | None = module.__dict__.get(PLAN_KEY)
        if plan is not None and forward is not None and forward.samples is not None:
            call = Call(
                plan.site, forward, plan.host, module, query, key, value, attention_mask, scaling, extra, hidden
            )
            return _run_packed(plan.chain or Stock(), call)
        if plan is None or plan.chain is None or forward is None:
            mask = attention_mask.spec.base_mask if isinstance(attention_mask, LazyMask) else attention_mask
            host = host_function(module, self.base) if plan is None else plan.host
            return host(module, query, key, value, mask, scaling=scaling, **extra)
        call = Call(
            plan.site, forward, plan.host, module, query, key, value, attention_mask, scaling, extra, hidden,
            forward.residual,
        )  # fmt: skip
        if plan.traceable or not torch.compiler.is_compiling():
            forward.calls += 1
            return plan.chain(call)
        return _run_untraced(plan.chain, call)


for _base in BASES:
    AttentionInterface.register(PREFIX + _base, Dispatcher(_base))
    AttentionMaskInterface.register(PREFIX + _base, lazy_mask_for(_base))
