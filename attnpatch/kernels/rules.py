"""Rules: which keys a query may see.

A rule speaks of the real tokens of one row (padding has no index): query i, key j, n tokens. It is only a
definition; plans (plan.py) turn it into work, and the float64 reference (reference.py) checks that work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .counting import permuted_pairs, window_pairs


def whole(name: str, value: object, least: int) -> None:
    """Raise unless `value` is an int >= `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")


class Rule:
    """Base of all rules. `length` is the total prompt length where a rule needs it, else None."""

    length: int | None = None

    def visible(self, i: torch.Tensor, j: torch.Tensor, n: int) -> torch.Tensor:
        """Bool tensor: may query i see key j? Broadcasts, [..., Q, 1] against [..., 1, K]."""
        raise NotImplementedError

    def sees_all(self, n: int) -> bool:
        """True only if the rule is plain causal attention for every row of n tokens."""
        raise NotImplementedError

    def pairs(self, first: int, last: int, n: int) -> int | float:
        """Visible (query, key) pairs of the query rows first..last-1 (mean over heads if they differ)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Causal(Rule):
    """Full causal attention: j <= i."""

    def visible(self, i, j, n):
        return j <= i

    def sees_all(self, n):
        return True

    def pairs(self, first, last, n):
        return (last * (last + 1) - first * (first + 1)) // 2

    def __str__(self):
        return "causal"


@dataclass(frozen=True)
class Window(Rule):
    """Sliding window with attention sinks (StreamingLLM, arXiv 2309.17453).

    Visible: j <= i and (i - j < window or j < sink) and (reach is None or i - j < reach).
    `window` counts the query itself. `reach` is a window that the layer already has: it is never widened.
    """

    window: int
    sink: int = 0
    reach: int | None = None

    def __post_init__(self):
        whole("window", self.window, 1)
        whole("sink", self.sink, 0)
        if self.reach is not None:
            whole("reach", self.reach, 1)

    def visible(self, i, j, n):
        distance = i - j
        keep = (distance >= 0) & ((distance < self.window) | (j < self.sink))
        return keep if self.reach is None else keep & (distance < self.reach)

    def sees_all(self, n):
        return self.window + self.sink >= n and (self.reach is None or self.reach >= n)

    def pairs(self, first, last, n):
        return window_pairs(first, last, self.window, self.sink, self.reach)

    def __str__(self):
        text = f"window {self.window}" + _plus(self.sink, "sinks")
        return text if self.reach is None else f"{text} within reach {self.reach}"


@dataclass(frozen=True)
class Permuted(Rule):
    """What the two permuted rules share: the permutation and slot[i], the place of token i in it."""

    permutation: Callable[[int], torch.Tensor]

    def slots(self, n: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """slot[i] for i < n: [n], or [Hkv, n] with one permutation per key/value head."""
        order = self.permutation(n)
        if not isinstance(order, torch.Tensor) or order.dtype.is_floating_point:
            raise TypeError(f"permutation({n}) must return an integer tensor, got {order!r}")
        if order.ndim not in (1, 2) or order.shape[-1] != n:
            raise ValueError(f"permutation({n}) must have shape [{n}] or [Hkv, {n}], got {list(order.shape)}")
        order = order.to(device=device, dtype=torch.long)
        if n and bool(((order < 0) | (order >= n)).any()):
            raise ValueError(f"permutation({n}) must hold each of 0..{n - 1} once, got entries outside")
        slot = torch.full_like(order, -1)
        slot.scatter_(-1, order, torch.arange(n, device=device).expand_as(order))
        if bool((slot < 0).any()):
            raise ValueError(f"permutation({n}) must hold each of 0..{n - 1} once, got repeated entries")
        return slot

    def near(self, slot_i: torch.Tensor, slot_j: torch.Tensor, n: int) -> torch.Tensor:
        """Do the slots alone (causality aside) let a query at slot_i see a key at slot_j?"""
        raise NotImplementedError

    def visible(self, i, j, n):
        slots = self.slots(n, i.device)
        return self.seen(i, j, slots[..., i], slots[..., j], n)

    def seen(self, i, j, slot_i, slot_j, n: int) -> torch.Tensor:
        """`visible` with the slots of i and j at hand."""
        keep = self.near(slot_i, slot_j, n)
        if self.sink:
            keep = keep | (j < self.sink)
        if self.local:
            keep = keep | (i - j < self.local)
        return keep & (j <= i)

    def _check(self):
        if not callable(self.permutation):
            raise TypeError(f"permutation must be callable (n -> LongTensor), got {self.permutation!r}")
        whole("sink", self.sink, 0)
        whole("local", self.local, 0)
        if self.length is not None:
            whole("length", self.length, 1)


@dataclass(frozen=True)
class PermutedWindow(Permuted):
    """Stochastic attention, exact slots: a window in a permuted order, causal in the original one.

    Source: arXiv 2604.00754. Visible: j <= i, and slot[j] lies at most `before` slots before or `after`
    slots after slot[i] (wrapping if `circular`), or j < sink, or i - j < local.
    `permutation(n)` returns [n] or [Hkv, n]. `length` is the whole prompt's length in key coordinates
    (left padding included) when the prompt arrives in chunks; None: the keys present are the prompt.
    """

    before: int
    after: int
    circular: bool = True
    sink: int = 0
    local: int = 0
    length: int | None = None

    def __post_init__(self):
        self._check()
        whole("before", self.before, 0)
        whole("after", self.after, 0)

    def near(self, slot_i, slot_j, n):
        step = slot_j - slot_i
        keep = (step <= self.after) & (step >= -self.before)
        return keep | (step >= n - self.before) | (step <= self.after - n) if self.circular else keep

    def sees_all(self, n):
        around = self.before + self.after + 1 >= n if self.circular else min(self.before, self.after) >= n - 1
        return around or self.sink + max(self.local, 1) >= n

    def pairs(self, first, last, n):
        def ranges(slot):
            low, high = slot - self.before, slot + self.after + 1
            if not self.circular:
                return [(low.clamp(min=0), high.clamp(max=n))]
            if self.before + self.after + 1 >= n:
                return [(torch.zeros_like(slot), torch.full_like(slot, n))]
            wrapped_low = torch.where(low < 0, low + n, 0)
            wrapped_high = torch.where(low < 0, n, (high - n).clamp(min=0))
            return [(low.clamp(min=0), high.clamp(max=n)), (wrapped_low, wrapped_high)]

        if self._same_for_all_orders(first, last, n):
            nearest = self.before if self.circular else min(self.before, n - 1)
            return n + n * nearest - (0 if self.circular else nearest * (nearest + 1) // 2)
        return permuted_pairs(self.slots(n), first, last, ranges, self.sink, self.local)

    def _same_for_all_orders(self, first: int, last: int, n: int) -> bool:
        """A symmetric window over all rows: each two tokens in reach are one visible pair, whichever is later."""
        symmetric = self.before == self.after and not self.sink and self.local <= 1
        return symmetric and first == 0 and last == n and not (self.circular and 2 * self.before + 1 > n)

    def __str__(self):
        edge = "" if self.circular else ", not circular"
        text = f"permuted window {self.before}+1+{self.after} slots{edge}"
        return text + _plus(self.sink, "sinks") + _plus(self.local, "local")


@dataclass(frozen=True)
class PermutedBuckets(Permuted):
    """A partition of the permuted order into buckets: not the paper's operator, but faster per visible key.

    Visible: j <= i and 0 <= slot[i] // size - slot[j] // size <= previous, or j < sink, or i - j < local.
    No wrap; the last bucket may be short. `permutation` and `length` as in PermutedWindow.
    """

    size: int
    previous: int = 0
    sink: int = 0
    local: int = 0
    length: int | None = None

    def __post_init__(self):
        self._check()
        whole("size", self.size, 1)
        whole("previous", self.previous, 0)

    def near(self, slot_i, slot_j, n):
        step = slot_i // self.size - slot_j // self.size
        return (step >= 0) & (step <= self.previous)

    def sees_all(self, n):
        return self.size >= n or self.sink + max(self.local, 1) >= n

    def pairs(self, first, last, n):
        def ranges(slot):
            bucket = slot // self.size
            low = (bucket - self.previous).clamp(min=0) * self.size
            return [(low, ((bucket + 1) * self.size).clamp(max=n))]

        if first == 0 and last == n and not (self.previous or self.sink) and self.local <= 1:
            full, rest = divmod(n, self.size)
            return (full * self.size * (self.size + 1) + rest * (rest + 1)) // 2
        return permuted_pairs(self.slots(n), first, last, ranges, self.sink, self.local)

    def __str__(self):
        text = f"permuted buckets of {self.size}" + _plus(self.previous, "previous")
        return text + _plus(self.sink, "sinks") + _plus(self.local, "local")


def _plus(count: int, what: str) -> str:
    return f" + {count} {what}" if count else ""
