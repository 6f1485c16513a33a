"""Spans: where the real tokens of each row lie, and the index arithmetic that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .rules import Rule


@dataclass(frozen=True)
class Geometry:
    """Real-token indices present in one row: queries first..last-1, keys key_first..key_last-1, of n."""

    first: int
    last: int
    key_first: int
    key_last: int
    n: int


@dataclass(frozen=True)
class Group:
    """Neighbouring batch rows begin..end-1 that share one span (start, stop)."""

    begin: int
    end: int
    start: int
    stop: int


def check_spans(spans, batch: int) -> None:
    """Raise unless `spans` is None or `batch` pairs of ints 0 <= start <= stop."""
    if spans is None:
        return
    if len(spans) != batch:
        raise ValueError(f"spans must hold one (start, stop) per row: {batch} rows, got {len(spans)} spans")
    for row, (start, stop) in enumerate(spans):
        if not 0 <= start <= stop:
            raise ValueError(f"spans[{row}] must be 0 <= start <= stop, got ({start}, {stop})")


def row_length(rule: Rule, start: int, stop: int) -> int:
    """n of a row: its real tokens present, or those of the whole prompt if the rule knows its length."""
    n = stop - start if rule.length is None else rule.length - start
    if n < stop - start:
        raise ValueError(
            f"rule.length must cover all keys present: it is {rule.length}, but the row's keys reach index {stop}. "
            "Give the length of the whole prompt, left padding included."
        )
    return n


def groups(spans, batch: int, total: int) -> list[Group]:
    """Neighbouring rows with equal spans, clipped to `total` keys."""
    if spans is None:
        return [Group(0, batch, 0, total)]
    found: list[Group] = []
    for row, (start, stop) in enumerate(spans):
        start, stop = min(int(start), total), min(int(stop), total)
        if found and (found[-1].start, found[-1].stop) == (start, stop):
            found[-1] = Group(found[-1].begin, row + 1, start, stop)
        else:
            found.append(Group(row, row + 1, start, stop))
    return found


def geometry(group: Group, rule: Rule, offset: int, queries: int, key_offset: int) -> Geometry:
    """The row's real indices; first == last if it has no real query here."""
    start, stop = group.start, group.stop
    first = min(max(offset, start), stop)
    return Geometry(
        first=first - start,
        last=max(min(offset + queries, stop), first) - start,
        key_first=max(key_offset - start, 0),
        key_last=stop - start,
        n=row_length(rule, start, stop),
    )


def visible_mask(
    rule: Rule,
    rows: torch.Tensor,
    keys: int,
    batch: int,
    *,
    key_offset: int = 0,
    spans: list[tuple[int, int]] | None = None,
    total: int | None = None,
) -> torch.Tensor:
    """Explicit mask of some query rows: bool [B | 1, H | Hkv | 1, R, K].

    rows: [R] absolute query indices; `total`: one past the last absolute index present (default: last
    key). Padded rows see their own key only. Memory is O(R K): for few rows, or for references.
    """
    check_spans(spans, batch)
    total = key_offset + keys if total is None else total
    columns = torch.arange(key_offset, key_offset + keys, device=rows.device)
    masks = []
    for start, stop in spans or [(0, total)]:
        start, stop = min(start, total), min(stop, total)
        n = row_length(rule, start, stop)
        i, j = (rows - start)[:, None], (columns - start)[None, :]
        real_i, real_j = (i >= 0) & (i < stop - start), (j >= 0) & (j < stop - start)
        seen = rule.visible(i.clamp(0, max(n - 1, 0)), j.clamp(0, max(n - 1, 0)), n) if n else real_i & real_j
        mask = torch.where(real_i, seen & real_j, rows[:, None] == columns[None, :])
        masks.append(mask if mask.ndim == 3 else mask[None])
    heads = max(mask.shape[0] for mask in masks)
    return torch.stack([mask.expand(heads, -1, -1) for mask in masks])
