"""Finds a model's text side and its attention sites, and says what each can do and why others cannot."""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from attnpatch.patching.errors import UnsupportedModelError

PREFIX = "attnpatch:"
BASES = ("sdpa", "eager")


@dataclass(frozen=True)
class Site:
    """One attention module that a method may touch.

    kind: "full", "sliding" (its own window in `window`, in tokens) or "chunked". base: the implementation it runs
    without us. softcap, sinks: the layer caps its scores / has learned sink logits. layers: how many the model has.
    """

    name: str
    layer: int
    kind: str
    window: int | None
    heads: int | None
    kv_heads: int | None
    base: str
    causal: bool
    softcap: bool
    sinks: bool
    layers: int | None = None


@dataclass(frozen=True)
class TextModel:
    """The part of a model that attnpatch works on: the text base model, its sites and what was left out."""

    model_class: str
    base: PreTrainedModel
    implementation: str
    sites: tuple[Site, ...]
    skipped: tuple[tuple[str, str], ...]
    layers: int


def unwrap(model: object) -> PreTrainedModel:
    """The PreTrainedModel inside a pipeline, PEFT, torch.compile, DDP or accelerate wrapper.

    Raises TypeError if there is none.
    """
    seen, current = set(), model
    while not isinstance(current, PreTrainedModel):
        seen.add(id(current))
        if callable(getattr(current, "get_base_model", None)):
            following = current.get_base_model()  # peft
        else:
            names = ("_orig_mod", "module", "model")  # torch.compile; DDP and FSDP; pipelines
            following = next((getattr(current, n) for n in names if getattr(current, n, None) is not None), None)
        if following is None or id(following) in seen:
            raise TypeError(
                f"model must be a transformers PreTrainedModel (or a pipeline, PEFT, torch.compile or DDP wrapper "
                f"around one), got {type(model).__name__}. Load one with AutoModelForCausalLM.from_pretrained(...)."
            )
        current = following
    return current


def text_base(model: PreTrainedModel) -> PreTrainedModel:
    """The innermost PreTrainedModel that owns the text config: where the decoder layers live."""
    config = model.config.get_text_config(decoder=True)
    owners = [m for m in model.modules() if isinstance(m, PreTrainedModel) and m.config is config]
    if not owners:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no text model with its own transformers config; nothing to patch."
        )
    return owners[-1]


def inspect_model(model: object) -> TextModel:
    """Everything `apply()` needs to know about a model, read from its structure; changes nothing.

    Raises:
        TypeError: not a model.
        UnsupportedModelError: its attention cannot be reached, with the reason.
    """
    outer = unwrap(model)
    base = text_base(outer)
    implementation = (base.config._attn_implementation or "eager").removeprefix(PREFIX)
    if implementation not in BASES:
        raise UnsupportedModelError(
            f"{type(outer).__name__} runs attn_implementation={implementation!r}; attnpatch works over "
            f"{' and '.join(map(repr, BASES))}. Load it with attn_implementation='sdpa'."
        )
    found, skipped = [], []
    for name, module, reason in attention_layers(base):
        if reason is None:
            found.append(_describe(name, module, base.config, implementation))
        elif reason:
            skipped.append((name, reason))
    if not found:
        listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise UnsupportedModelError(
            f"{type(outer).__name__} cannot be patched: its attention does not go through transformers' attention "
            f"interface, so it would silently ignore any method.{' ' + listed if listed else ''}"
        )
    clash = _tests_implementation_name(base, implementation)
    if clash:
        raise UnsupportedModelError(
            f"{type(outer).__name__} cannot be patched over {implementation!r}: {clash} compares the name of the "
            "attention implementation and would take another path under ours."
        )
    layers = getattr(base.config, "num_hidden_layers", None) or 1 + max(site.layer for site in found)
    sites = tuple(replace(site, layers=layers) for site in found)
    return TextModel(type(outer).__name__, base, implementation, sites, tuple(skipped), layers)


def attention_layers(base: PreTrainedModel) -> Iterator[tuple[str, nn.Module, str | None]]:
    """Name and module of everything that may be an attention layer, and why it cannot be patched.

    None: it can; an empty text: it is no attention layer at all.
    """
    for name, module in base.named_modules():
        if hasattr(module, "layer_idx") or _calls_interface(type(module)):
            yield name, module, _why_not(module)


def _why_not(module: nn.Module) -> str | None:
    """None: a site. A text: an attention layer we cannot touch. Empty: no attention layer at all."""
    name = type(module).__name__
    if _calls_interface(type(module)):
        if "cross" in name.lower() or getattr(module, "is_cross_attention", False):
            return "cross-attention: its keys are not the text"
        if not hasattr(module, "layer_idx"):
            return "has no layer index"
        return None
    if any(_calls_interface(type(child)) for child in module.modules()):
        return ""
    looks_like_attention = any(word in name.lower() for word in ("attention", "attn", "deltanet", "mamba", "mixer"))
    return "does not go through the attention interface (linear or recurrent layer)" if looks_like_attention else ""


@cache
def _calls_interface(cls: type) -> bool:
    """True if the class's forward looks its attention function up in transformers' interface."""
    for owner in cls.__mro__:
        forward = owner.__dict__.get("forward")
        if forward is not None:
            return "ALL_ATTENTION_FUNCTIONS" in _names(inspect.unwrap(forward))
    return False


def _names(function: Callable) -> set[str]:
    code = getattr(function, "__code__", None)
    return set(code.co_names) if code is not None else set()


def _describe(name: str, module: nn.Module, config, implementation: str) -> Site:
    layer = int(module.layer_idx)
    types = getattr(config, "layer_types", None)
    declared = types[layer] if types is not None and layer < len(types) else None
    window = getattr(module, "sliding_window", None)
    if declared is None and window is None:
        window = getattr(config, "sliding_window", None)  # one window for all layers, as transformers' caches take it
    if declared == "chunked_attention":
        kind, window = "chunked", getattr(config, "attention_chunk_size", None)
    elif declared == "sliding_attention" or (declared is None and window is not None):
        kind, window = "sliding", window if window is not None else getattr(config, "sliding_window", None)
    else:
        kind, window = "full", None
    return Site(
        name=name,
        layer=layer,
        kind=kind,
        window=window,
        heads=getattr(config, "num_attention_heads", None),
        kv_heads=getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None),
        base=implementation,
        causal=bool(getattr(module, "is_causal", True)),
        softcap=getattr(module, "attn_logit_softcapping", None) is not None,
        sinks=isinstance(getattr(module, "sinks", None), nn.Parameter),
    )


def _tests_implementation_name(base: PreTrainedModel, implementation: str) -> str | None:
    """The method of the text model that compares `_attn_implementation` with the base in use, if any."""
    for cls in {type(module) for module in base.modules()}:
        for owner in cls.__mro__:
            if owner.__module__.startswith("torch.") or owner is PreTrainedModel:
                continue
            for attribute, function in vars(owner).items():
                if inspect.isfunction(function) and implementation in compared_names(inspect.unwrap(function)):
                    return f"{owner.__name__}.{attribute}"
    return None


@cache
def compared_names(function: Callable) -> frozenset[str]:
    """The strings that `function` compares a config's `_attn_implementation` with, read from its bytecode."""
    return frozenset(_comparisons(function))


def _comparisons(function: Callable) -> Iterator[str]:
    if getattr(function, "__code__", None) is None or "_attn_implementation" not in function.__code__.co_names:
        return
    steps = [step for step in dis.get_instructions(function) if step.opname not in ("CACHE", "RESUME")]
    for index, step in enumerate(steps):
        if step.argval != "_attn_implementation" or step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            continue
        constant, comparison = steps[index + 1], steps[index + 2]
        if comparison.opname in ("COMPARE_OP", "CONTAINS_OP"):
            values = constant.argval if isinstance(constant.argval, (tuple, frozenset)) else (constant.argval,)
            yield from (value for value in values if isinstance(value, str))


def host_function(module: nn.Module, base: str) -> Callable:
    """The attention function that `module` would call under implementation `base`."""
    defining = sys.modules.get(type(module).__module__)
    interface = getattr(defining, "ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)
    if base != "eager":
        return interface[base]
    for owner in type(module).__mro__:
        eager = getattr(sys.modules.get(owner.__module__), "eager_attention_forward", None)
        if eager is not None:
            return eager
    raise UnsupportedModelError(
        f"{type(module).__name__} has no eager attention function of its own; load the model with "
        "attn_implementation='sdpa'."
    )
