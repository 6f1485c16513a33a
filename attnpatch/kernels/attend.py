"""`attend`: one entry for every rule, padding, offset and executor."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import chunked
from .backends import Executor, choose
from .block_rule import Blocks
from .decode import decode
from .merge import add_sink_logits, merge
from .planning import plans
from .reference import dense_attention
from .rules import Causal, Permuted, Rule
from .softmax import block_attention, fast_lse
from .spans import Geometry, check_spans, geometry, groups


class Attended(NamedTuple):
    """output [B, H, Q, Dv] in q's dtype; lse [B, H, Q] (None unless asked); backend: which path ran."""

    output: torch.Tensor
    lse: torch.Tensor | None
    backend: str


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rule: Rule,
    *,
    scale: float | None = None,
    offset: int = 0,
    key_offset: int = 0,
    spans: list[tuple[int, int]] | None = None,
    sink_logits: torch.Tensor | None = None,
    backend: str = "auto",
    return_lse: bool = False,
) -> Attended:
    """Attention of q [B, H, Q, D] over k [B, Hkv, K, D], v [B, Hkv, K, Dv] under `rule`, never building Q x K.

    Query row r has the absolute index offset + r, key column c has key_offset + c; keys from offset + Q on are
    never visible. spans: per batch row the (start, stop) of its real tokens in absolute indices (left and right
    padding); padded query rows see their own key only. sink_logits: [H], one more softmax column without a value
    (GPT-OSS); the lse then includes it. Differentiable; where an lse is needed (return_lse, sink_logits, sinks or
    local keys beside a permutation) autograd keeps each block's weights: O(Q window) memory.
    backend: "auto", "chunked", "flex" or "reference" (dense float64).
    Raises ValueError or TypeError for arguments that do not fit each other.
    """
    _check(q, k, v, rule, offset, key_offset, spans, sink_logits)
    executor = choose(backend, q.device, q.shape[2])
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if executor is None:
        return _by_reference(q, k, v, rule, scale, offset, key_offset, spans, sink_logits, return_lse)
    want_lse = return_lse or sink_logits is not None
    value_dim = v.shape[-1]
    q, k, v = _equal_dims(q, k, v)
    parts = []
    for group in groups(spans, q.shape[0], offset + q.shape[2]):
        at = geometry(group, rule, offset, q.shape[2], key_offset)
        members = slice(group.begin, group.end)
        rows = slice(at.first + group.start - offset, at.last + group.start - offset)
        keys = slice(at.key_first + group.start - key_offset, at.key_last + group.start - key_offset)
        row = _Row(q[members], k[members], v[members], scale, offset - key_offset)
        parts.append(row.run(rule, at, rows, keys, executor, want_lse))
    output = parts[0][0] if len(parts) == 1 else torch.cat([part[0] for part in parts])
    lse = None
    if want_lse:
        lse = parts[0][1] if len(parts) == 1 else torch.cat([part[1] for part in parts])
    output = output[..., :value_dim]
    if sink_logits is not None:
        output, lse = add_sink_logits(output, lse, sink_logits)
    ran = "+".join(sorted({part[2] for part in parts}))
    return Attended(output, lse.float() if return_lse else None, ran)


class _Row:
    """Batch rows of one span. own: column of the first query row's own key."""

    def __init__(self, q, k, v, scale: float, own: int):
        self.q, self.k, self.v, self.scale, self.own = q, k, v, scale, own

    def run(self, rule: Rule, at: Geometry, rows: slice, keys: slice, executor: Executor, want_lse: bool):
        """Output, lse | None and path name for all query rows: the real ones by plan, padded ones by own key."""
        total = self.q.shape[2]
        if rows.start >= rows.stop:
            return *self.padding(0, total), "padding"
        q, k, v = self.q[:, :, rows], self.k[:, :, keys], self.v[:, :, keys]
        output, lse, name = real_rows(q, k, v, rule, at, self.scale, executor, want_lse)
        if rows == slice(0, total):
            return output, lse, name
        before, after = self.padding(0, rows.start), self.padding(rows.stop, total)
        output = torch.cat([before[0], output, after[0]], 2)
        return output, torch.cat([before[1], lse, after[1]], 2) if want_lse else None, name

    def padding(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Query rows that see their own key only."""
        own = slice(first + self.own, last + self.own)
        group = self.q.shape[1] // self.k.shape[1]
        key = self.k[:, :, own].repeat_interleave(group, 1)
        value = self.v[:, :, own].repeat_interleave(group, 1)
        score = (self.q[:, :, first:last] * key).sum(-1, dtype=torch.promote_types(key.dtype, torch.float32))
        return value, score * self.scale


def real_rows(q, k, v, rule: Rule, at: Geometry, scale: float, executor: Executor, want_lse: bool):
    """Attention of real tokens only: output, lse | None, path name."""
    if rule.sees_all(at.n):
        rule = Causal()
    if isinstance(rule, Causal) and at.last == at.key_last:
        past = at.first - at.key_first
        if q.shape[2] == 1:
            return *decode(q, k, v, scale=scale, want_lse=want_lse), "dense-rows"
        if past == 0:
            return *block_attention(q, k, v, None, scale, causal=True, want_lse=want_lse), "dense-causal"
        if q.shape[2] > chunked.FEW_ROWS and fast_lse(q, k, v):
            return *_after_past(q, k, v, past, scale), "dense-chunk"
    if isinstance(rule, Blocks):
        return *executor.run_blocks(rule, at, q, k, v, scale, want_lse), f"{executor.name}-blocks"
    if isinstance(rule, Permuted):
        slots = rule.slots(at.n, q.device)
        if slots.ndim == 2:
            return _by_head(q, k, v, rule, slots, at, scale, executor, want_lse)
    else:
        slots = None
    return _by_plans(q, k, v, rule, slots, at, scale, executor, want_lse)


def _after_past(q, k, v, past: int, scale: float):
    """Causal attention of the last rows over all keys: the keys before them need no mask."""
    earlier = block_attention(q, k[:, :, :past], v[:, :, :past], None, scale, want_lse=True)
    own = block_attention(q, k[:, :, past:], v[:, :, past:], None, scale, causal=True, want_lse=True)
    return merge(earlier, own)


def _by_plans(q, k, v, rule, slots, at, scale, executor: Executor, want_lse: bool):
    found = plans(rule, at, slots, executor.block, executor.slots_block, executor.even)
    several = len(found) > 1
    results = [executor.run(plan, q, k, v, scale, want_lse or several) for plan in found]
    output, lse = reduce(merge, results) if several else results[0]
    return output, lse, "+".join([f"{executor.name}-{plan.name}" for plan in found])


def _by_head(q, k, v, rule, slots, at, scale, executor, want_lse):
    """One permutation per key/value head: each head and its query group is a problem of its own."""
    heads, group = k.shape[1], q.shape[1] // k.shape[1]
    if slots.shape[0] != heads:
        raise ValueError(f"permutation must have one row per key/value head: {heads} heads, got {slots.shape[0]} rows")
    parts = [
        _by_plans(
            q[:, h * group : (h + 1) * group], k[:, h : h + 1], v[:, h : h + 1],
            rule, slots[h], at, scale, executor, want_lse,
        )
        for h in range(heads)
    ]  # fmt: skip
    lse = torch.cat([part[1] for part in parts], 1) if want_lse else None
    return torch.cat([part[0] for part in parts], 1), lse, parts[0][2]


def _by_reference(q, k, v, rule, scale, offset, key_offset, spans, sink_logits, return_lse) -> Attended:
    options = {"scale": scale, "offset": offset, "key_offset": key_offset, "spans": spans}
    output, _, lse = dense_attention(q, k, v, rule, sink_logits=sink_logits, **options)
    return Attended(output.to(q.dtype), lse.float() if return_lse else None, "reference")


def _equal_dims(q, k, v):
    """Pad D or Dv with zeros so that they agree, as torch's fused kernels want: same scores, same output."""
    short = v.shape[-1] - q.shape[-1]
    if short > 0:
        return F.pad(q, (0, short)), F.pad(k, (0, short)), v
    return q, k, F.pad(v, (0, -short)) if short else v


def _check(q, k, v, rule, offset, key_offset, spans, sink_logits) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor) or x.ndim != 4:
            raise ValueError(f"{name} must be a tensor [B, H, N, D], got {getattr(x, 'shape', x)!r}")
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be a Rule such as Window(1024), got {rule!r}")
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q, k, v must be [B, H, Q, D], [B, Hkv, K, D], [B, Hkv, K, Dv], got {shapes}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"query heads must be a multiple of key heads, got {shapes}")
    if offset < 0 or key_offset < 0:
        raise ValueError(f"offset and key_offset must be >= 0, got {offset} and {key_offset}")
    if q.shape[2] == 0 or offset < key_offset or offset + q.shape[2] > key_offset + k.shape[2]:
        raise ValueError(
            f"every query needs its own key: queries {offset}..{offset + q.shape[2] - 1}, "
            f"keys {key_offset}..{key_offset + k.shape[2] - 1}"
        )
    check_spans(spans, q.shape[0])
    if sink_logits is not None and sink_logits.shape != (q.shape[1],):
        raise ValueError(f"sink_logits must have shape [{q.shape[1]}], got {list(sink_logits.shape)}")
