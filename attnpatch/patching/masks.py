"""Masks in O(N): the host's mask request kept as a recipe, built only when somebody needs the tensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map
from transformers import masking_utils

from attnpatch.patching.errors import UnsupportedCallError


class Pattern(NamedTuple):
    """The layer's own rule, without padding: `causal`, `sliding` (with its window) or `other`."""

    kind: str
    window: int | None = None


def _same_function(one: Any, two: Any) -> bool:
    """True if two closures run the same code over equal captured values."""
    if one is two:
        return True
    if not (callable(one) and callable(two)):
        return type(one) is type(two) and not isinstance(one, torch.Tensor) and one == two
    if getattr(one, "__code__", None) is not getattr(two, "__code__", 0):
        return False
    mine, theirs = one.__closure__ or (), two.__closure__ or ()
    return all(_same_values(a.cell_contents, b.cell_contents) for a, b in zip(mine, theirs, strict=True))


def _same_values(one: Any, two: Any) -> bool:
    if isinstance(one, tuple) and isinstance(two, tuple):
        return len(one) == len(two) and all(map(_same_function, one, two))
    return _same_function(one, two)


class MaskSpec:
    """One mask request of the host: what it asked for, and the answers, each computed at most once.

    `arguments` are the keyword arguments of transformers' mask interface (batch_size, q_length, kv_length,
    q_offset, kv_offset, mask_function, attention_mask as 2-D padding `[B, keys]`, ...), `base` the
    implementation that would have answered without us.
    """

    def __init__(self, base: str, arguments: dict[str, Any]) -> None:
        offset = arguments.get("q_offset", 0)
        if isinstance(offset, torch.Tensor):
            # A static cache hands out its own counter and advances it in place before the mask is read.
            arguments = {**arguments, "q_offset": offset.clone()}
        self.base = base
        self.arguments = arguments

    def _build(self, **changes: Any) -> torch.Tensor | None:
        return masking_utils.ALL_MASK_ATTENTION_FUNCTIONS[self.base](**{**self.arguments, **changes})

    @cached_property
    def base_mask(self) -> torch.Tensor | None:
        """Exactly what the base implementation would have received; None where it skips the mask."""
        return self._build()

    @cached_property
    def dense(self) -> torch.Tensor:
        """The mask as a tensor `[B, 1, Q, K]` in the base's own format, never None."""
        return self._build(allow_is_causal_skip=False)

    @cached_property
    def offset(self) -> int:
        """Absolute index of the first query row."""
        return int(self.arguments.get("q_offset", 0))

    @property
    def key_offset(self) -> int:
        """Absolute index of the first key column."""
        return int(self.arguments.get("kv_offset", 0))

    @property
    def padding(self) -> torch.Tensor | None:
        """Bool `[B, keys]`, True = real token, or None."""
        return self.arguments.get("attention_mask")

    @cached_property
    def pattern(self) -> Pattern:
        rule: Callable = self.arguments["mask_function"]
        if rule is masking_utils.causal_mask_function:
            return Pattern("causal")
        window = self.arguments.get("local_size")
        if window is not None and _same_function(rule, masking_utils.sliding_window_causal_mask_function(window)):
            return Pattern("sliding", window)
        return Pattern("other")

    def moved_to(self, device: torch.device) -> MaskSpec:
        """The same request for another device."""
        arguments = {
            key: value.to(device) if isinstance(value, torch.Tensor) else value
            for key, value in self.arguments.items()
        }
        if self.pattern.kind == "other":
            raise UnsupportedCallError(
                "a mask that depends on tensors (packed sequences, image blocks, chunks) cannot follow the model "
                f"to {device}; keep these layers on one device."
            )
        return MaskSpec(self.base, {**arguments, "device": device})


class LazyMask(torch.Tensor):
    """A mask tensor without storage: it has the shape, dtype and device, and `spec` to build the rest.

    Library code that passes it on or looks at its shape sees a tensor. An operation on its values builds the
    dense mask of the base implementation and goes on with that; `materialised` counts how often.
    """

    spec: MaskSpec
    materialised = 0

    @staticmethod
    def __new__(cls, spec: MaskSpec) -> LazyMask:
        asked = spec.arguments
        shape = (asked["batch_size"], 1, asked["q_length"], asked["kv_length"])
        dtype = torch.bool if spec.base == "sdpa" else asked.get("dtype", torch.float32)
        mask = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=asked.get("device", "cpu"))
        mask.spec = spec
        return mask

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return LazyMask(args[0].spec)
        if operator is torch.ops.aten._to_copy.default and kwargs.get("dtype") in (None, args[0].dtype):
            return LazyMask(args[0].spec.moved_to(kwargs.get("device") or args[0].device))
        LazyMask.materialised += 1

        def dense(value: Any) -> Any:
            return value.spec.dense if isinstance(value, LazyMask) else value

        return operator(*tree_map(dense, args), **tree_map(dense, kwargs))

    def __repr__(self, **_: Any) -> str:
        return f"LazyMask(shape={tuple(self.shape)}, pattern={self.spec.pattern.kind}, base={self.spec.base!r})"


def lazy_mask_for(base: str) -> Callable[..., torch.Tensor | None]:
    """The mask function to register beside the attention function of `base`.

    It returns None, as the base would, for a lone newest token that sees all there is: the most frequent request.
    """

    def lazy_mask(**arguments: Any) -> torch.Tensor | None:
        if torch.compiler.is_compiling():  # a graph wants plain tensors; the geometry then comes from the forward
            return masking_utils.ALL_MASK_ATTENTION_FUNCTIONS[base](**arguments)
        if not _is_newest(arguments):
            return LazyMask(MaskSpec(base, arguments))
        mask = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS[base](**arguments)
        if mask is None:
            return None
        spec = MaskSpec(base, arguments)
        spec.base_mask = mask
        return LazyMask(spec)

    return lazy_mask


def _is_newest(asked: dict[str, Any]) -> bool:
    """Is it a mask for a token alone behind a cache, in a causal layer with all keys up to it?"""
    if asked["q_length"] != 1 or asked["mask_function"] is not masking_utils.causal_mask_function:
        return False
    offset = asked.get("q_offset", 0)
    return isinstance(offset, int) and 0 < offset == asked["kv_length"] - 1 and not asked.get("kv_offset", 0)


def spans_of(padding: torch.Tensor | None, rows: int, end: int) -> list[tuple[int, int]] | None:
    """Each row's real tokens as `(start, stop)` below `end`, or None if no row is padded.

    `padding` is `[B, keys]`, nonzero = real, for `rows` rows of `end` tokens each (cached ones included).
    Raises UnsupportedCallError for another shape, and for padding with holes.
    """
    if padding is None:
        return None
    if padding.shape[0] != rows or padding.shape[1] < end:
        raise UnsupportedCallError(
            f"attention_mask has shape {tuple(padding.shape)}, but {rows} rows of {end} tokens (cached ones included) "
            f"need [{rows}, {end}]; give the mask one column for every token so far."
        )
    real = padding[:, :end].bool()
    if bool(real.all()):
        return None
    counts = real.sum(1)
    starts = torch.where(counts > 0, real.int().argmax(1), 0)
    stops = torch.where(counts > 0, end - real.flip(1).int().argmax(1), 0)
    if bool((stops - starts != counts).any()):
        row = int((stops - starts != counts).nonzero()[0])
        raise UnsupportedCallError(
            f"attention_mask row {row} has padding between real tokens; only left or right padding is supported. "
            "Re-encode the batch with padding_side='left' before generating."
        )
    return list(zip(starts.tolist(), stops.tolist(), strict=True))
