"""Edits of the attention of a few query rows: everything else stays what the fused attention computed.

A method that changes weights of some rows says so (`call.edit(...)`) and goes on to `inner`. At the end of the chain
the attention runs for all rows as always; the rows that were named are computed once more with their weights written
out, changed by all edits, and put in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import torch

from attnpatch import kernels
from attnpatch.patching.masks import LazyMask

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call

ROWS_AT_ONCE = 128  # query rows whose weights are written out together, [B, H, 128, K] fp32
Attended = tuple[torch.Tensor, torch.Tensor | None]


class RowsAt(NamedTuple):
    """Which query rows an edit is looking at.

    first: absolute index of the first one; key_first: absolute index of the first key; batch: numbers of the batch
    rows, None for all of them; plain: no key is hidden from any of the rows and there is no learned sink, so that
    their weights sum to one.
    """

    first: int
    key_first: int = 0
    batch: tuple[int, ...] | None = None
    plain: bool = False

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """`values` `[B, ...]` of the whole batch, for the batch rows at hand."""
        return values if self.batch is None else values[list(self.batch)]


Change = Callable[[torch.Tensor, RowsAt], tuple[torch.Tensor, torch.Tensor | None]]


class Edit(NamedTuple):
    """A change of the attention of some query rows.

    change: takes the rows' weights `[B, H, R, K]` fp32 (scores, scaled and -inf where nothing is visible, with
        `before_softmax`) and which rows they are; returns the new ones and a bool `[B, H or 1, R or 1]` of what it
        changed, None for all. It must not write into its argument, nor hide all that a row sees.
    first: the first query row of the call that may change.
    rows: bool `[B, Q - first]`, which rows from there on may change, None for all.
    everywhere: the rows it may change can be computed anew as a whole, whatever of them it changes.
    """

    change: Change
    before_softmax: bool = False
    first: int = 0
    rows: torch.Tensor | None = None
    everywhere: bool = False
    batch: tuple[int, ...] | None = None

    def of_rows(self, rows: list[int]) -> Edit:
        """The same edit for some rows of the batch alone."""
        mine = tuple(rows) if self.batch is None else tuple(self.batch[row] for row in rows)
        return self._replace(batch=mine, rows=None if self.rows is None else self.rows[rows])

    def of_queries(self, first: int, last: int) -> Edit | None:
        """The edit for the query rows first..last-1 of the call, None if it changes none of them."""
        if self.first >= last:
            return None
        start = max(self.first, first)
        rows = None if self.rows is None else self.rows[:, start - self.first : last - self.first]
        return self._replace(first=start - first, rows=rows)


def stock_with_edits(call: Call) -> Attended:
    """The host's attention with the call's edits in it."""
    last = call.query.shape[2] - 1
    if call.extra.get("output_attentions"):
        return with_edits(call, call.unedited(), 0, None)
    everyone, some = False, []
    for edit in call.edits:
        if edit.first != last or not edit.everywhere:
            return with_edits(call, call.unedited(), 0, None)
        if edit.rows is None:
            everyone = True
        else:
            some.append(edit.rows)
    edited = _last_row(call, last)
    if everyone and not last:
        return edited, None
    output = call.unedited()[0]
    if not everyone:
        changed = reduce(torch.logical_or, some)  # [B, 1]
        edited = torch.where(changed[..., None, None], edited, output[:, last:])
    return (torch.cat([output[:, :last], edited], 1) if last else edited), None


def _last_row(call: Call, row: int) -> torch.Tensor:
    """Output `[B, 1, H, Dv]` of the last query row, edited as a whole: a step of decoding, in few operations."""
    visible, at = _last_view(call, row)
    query, key, value = call.query[:, :, row:] if row else call.query, call.key, call.value
    if visible is not None:
        key, value = key[:, :, : visible.shape[-1]], value[:, :, : visible.shape[-1]]
    values = kernels.row_scores(query, key, scale=call.scaling, visible=visible)
    values = _changed(call.edits, values, at, before_softmax=True)
    values = values.softmax(-1) if at.plain else kernels.softmax_rows(values, sink_logits=call.extra.get("s_aux"))
    values = _changed(call.edits, values, at, before_softmax=False)
    return kernels.row_outputs(values, value).transpose(1, 2)


def _changed(edits: list[Edit], values: torch.Tensor, at: RowsAt, *, before_softmax: bool) -> torch.Tensor:
    for edit in reversed(edits):
        if edit.before_softmax is before_softmax:
            new, _ = edit.change(values, at if edit.batch is None else at._replace(batch=edit.batch))
            values = new if edit.rows is None else torch.where(edit.rows[:, None, :, None], new, values)
            if len(edits) > 1:
                at = at._replace(plain=False)  # the next one cannot know what this one did
    return values


def _last_view(call: Call, row: int) -> tuple[torch.Tensor | None, RowsAt]:
    """What the last query row sees, and where it stands; the same for all layers with the same mask and keys."""
    memo, views = ("last row", id(call.mask), call.key.shape[2], call.site.window), call.forward.memo
    if memo not in views:
        visible = _visible(call, row, row + 1, None)
        plain = visible is None and call.extra.get("s_aux") is None
        at = RowsAt(call.offset + row, call.key_offset, plain=plain)
        views[memo] = (visible, at, call.mask)  # the mask too: while it lives, nothing else has its id
    return views[memo][:2]


def with_edits(call: Call, attended: Attended, start: int, rule: kernels.Rule | None) -> Attended:
    """`attended` with the call's edits put in.

    start: the query row that it begins with; rule: the sparse rule it was computed under, None for the layer's own.
    """
    output, weights = attended
    count = start + output.shape[1]
    first = max(start, min(edit.first for edit in call.edits))
    for low in range(first, count, ROWS_AT_ONCE):
        high = min(low + ROWS_AT_ONCE, count)
        edited, touched = _edited(call, low, high, rule)
        keys = edited.shape[-1]
        new = kernels.row_outputs(edited, call.value[:, :, :keys]).transpose(1, 2)  # [B, R, H, Dv]
        output = _put(output, new, touched.transpose(1, 2), low - start, dim=1)
        if weights is not None:
            wide = torch.nn.functional.pad(edited, (0, weights.shape[-1] - keys))
            weights = _put(weights, wide, touched, low - start, dim=2)
    return output, weights


def _put(whole: torch.Tensor, new: torch.Tensor, touched: torch.Tensor, at: int, dim: int) -> torch.Tensor:
    """`whole` with `new` in it from index `at` of `dim` on, where `touched`."""
    count = new.shape[dim]
    mixed = torch.where(touched.unsqueeze(-1), new.to(whole.dtype), whole.narrow(dim, at, count))
    behind = at + count
    return torch.cat([whole.narrow(dim, 0, at), mixed, whole.narrow(dim, behind, whole.shape[dim] - behind)], dim)


def stock_weights(call: Call, low: int, high: int) -> torch.Tensor:
    """Weights `[B, H, R, K]` fp32 of the query rows low..high-1 under the layer's own rule, without the edits."""
    visible = _visible(call, low, high, None)
    keys = call.key.shape[2] if visible is None else visible.shape[-1]
    query, key = call.query[:, :, low:high], call.key[:, :, :keys]
    return _softmax(call, kernels.row_scores(query, key, scale=call.scaling, visible=visible), own=True)


def _softmax(call: Call, scores: torch.Tensor, *, own: bool) -> torch.Tensor:
    """Weights of `scores` `[B, H, R, K]`. own: they are the layer's own, under its own rule."""
    sinks = call.extra.get("s_aux")
    if own and sinks is None and _own_kind(call) is not None:
        return scores.softmax(-1)  # every row sees its own key
    return kernels.softmax_rows(scores, sink_logits=sinks)


def _edited(call: Call, low: int, high: int, rule: kernels.Rule | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `[B, H, R, K]` of the query rows low..high-1 after all edits, and which changed, bool `[B, H, R]`."""
    query, key_first = call.query[:, :, low:high], call.key_offset
    visible = _visible(call, low, high, rule)
    keys = call.key.shape[2] if visible is None else visible.shape[-1]
    values = kernels.row_scores(query, call.key[:, :, :keys], scale=call.scaling, visible=visible)
    touched = None
    for before_softmax in (True, False):
        if not before_softmax:
            values = _softmax(call, values, own=rule is None and not any(edit.before_softmax for edit in call.edits))
        for edit in reversed(call.edits):  # the innermost method wrote its edit last and changes first
            part = edit.of_queries(low, high) if edit.before_softmax is before_softmax else None
            if part is not None:
                at = RowsAt(call.offset + low + part.first, key_first, part.batch)
                values, touched = _apply(part, at, values, touched, alone=len(call.edits) == 1)
    return values, touched


def _apply(
    edit: Edit, at: RowsAt, values: torch.Tensor, touched: torch.Tensor | None, *, alone: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`values` after the edit, and which rows have been touched so far.

    alone: no other edit looks at them, so rows that are not touched may hold anything.
    """
    first, old = edit.first, values[:, :, edit.first :] if edit.first else values
    new, changed = edit.change(old, at)
    if edit.rows is not None:
        changed = edit.rows[:, None] if changed is None else changed & edit.rows[:, None]
    if changed is None:
        changed = values.new_ones(new.shape[:3], dtype=torch.bool)
    elif not alone:
        new = torch.where(changed.unsqueeze(-1), new, old)
    changed = changed.expand(new.shape[:3])
    if not first:
        return new, changed if touched is None else touched | changed
    before = values.new_zeros(values.shape[:3], dtype=torch.bool) if touched is None else touched
    touched = torch.cat([before[:, :, :first], before[:, :, first:] | changed], 2)
    return torch.cat([values[:, :, :first], new], 2), touched


def _visible(call: Call, low: int, high: int, rule: kernels.Rule | None) -> torch.Tensor | None:
    """Which keys the query rows low..high-1 see, bool `[B or 1, H or 1, R, K]`; None for all of them."""
    if rule is not None:
        rows = torch.arange(call.offset + low, call.offset + high, device=call.query.device)
        keys = call.end - call.key_offset
        return kernels.visible_mask(
            rule, rows, keys, call.query.shape[0], key_offset=call.key_offset, spans=call.spans, total=call.end
        )
    if _own_kind(call) == "causal":
        return _earlier(call, low, high)
    if call.mask is None:  # inside a compiled graph: nothing is hidden but what comes later
        return _visible(call, low, high, call.own_rule)
    mask = call.of_queries(low, high).mask
    mask = mask.spec.dense if isinstance(mask, LazyMask) else mask
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _own_kind(call: Call) -> str | None:
    """causal or sliding, where the layer's own rule is all there is: no padding, no mask that says more."""
    if call.spans is not None:
        return None
    if call.mask is None:
        return "causal" if call.site.window is None else "sliding"
    kind = "other" if call.spec is None else call.spec.pattern.kind
    return None if kind == "other" else kind


def _earlier(call: Call, low: int, high: int) -> torch.Tensor | None:
    """Which keys do not come later than the query rows low..high-1, bool `[1, 1, R, K]`; None for all of them."""
    first, keys, device = call.key_offset, call.key.shape[2], call.query.device
    if first + keys <= call.offset + low + 1:
        return None  # all that is there: a lone newest query
    memo, known = ("earlier", low, high, first, keys, device), call.forward.memo
    if memo not in known:
        index = torch.arange(max(first + keys, call.offset + high), device=device)
        known[memo] = (index[first : first + keys] <= index[call.offset + low : call.offset + high, None])[None, None]
    return known[memo]
