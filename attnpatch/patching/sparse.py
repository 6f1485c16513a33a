"""One call's attention under a sparse rule: the kernels with the call's padding, offsets and cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attnpatch import kernels
from attnpatch.patching.edits import with_edits
from attnpatch.patching.errors import UnsupportedCallError

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call
    from attnpatch.patching.sink_cache import SinkWindowLayer


def attend_under(call: Call, rule: kernels.Rule, rows: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What `Call.attend` says, for some of the call's query rows."""
    _require_plain(call)
    first, last, _ = rows.indices(call.query.shape[2])
    query, held = call.query[:, :, first:last], call.held
    if held is None:
        dropped, key_offset, spans = 0, call.key_offset, call.spans
    else:
        held.require(rule, call.layer)
        dropped, key_offset, spans = held.layout.dropped, 0, _stored_spans(call, held)
    visible = call.end - dropped - key_offset  # a static cache is longer than what has been written
    key, value = call.key[:, :, :visible], call.value[:, :, :visible]
    geometry = {
        "scale": call.scaling,
        "offset": call.offset - dropped + first,
        "key_offset": key_offset,
        "spans": spans,
        "sink_logits": call.extra.get("s_aux"),
    }
    if call.extra.get("output_attentions"):
        output, weights = kernels.reference_attention(query, key, value, rule, dtype=torch.float32, **geometry)
        output, weights, backend = output.to(query.dtype), weights.to(query.dtype), "reference"
        if held is not None:
            weights = held.layout.widened(weights, call.all_spans, call.end)
    else:
        output, _, backend = kernels.attend(query, key, value, rule, **geometry)
        weights = None
    if call.stats is not None:
        call.count(backend, rule, first, last)
    attended = output.transpose(1, 2).contiguous(), weights
    if not call.edits:
        return attended
    call.require_all_keys()
    return with_edits(call, attended, first, rule)


def _stored_spans(call: Call, held: SinkWindowLayer) -> list[tuple[int, int]] | None:
    known, memo = call.forward.spans_at, (held.layout, call.end)
    if memo not in known:
        held.require_starts(call.spans)
        known[memo] = held.layout.spans(call.spans)
    return known[memo]


def _require_plain(call: Call) -> None:
    if call.pattern.kind == "other":
        raise UnsupportedCallError(
            f"layer {call.layer} uses a mask that is neither causal nor a sliding window (packed sequences, "
            "image tokens that attend both ways); a key-replacing method cannot be combined with it."
        )
    if call.extra.get("dropout"):
        raise UnsupportedCallError(
            f"layer {call.layer} trains with attention dropout {call.extra['dropout']}, which the sparse kernels "
            "do not apply; set config.attention_dropout = 0.0 or call model.eval()."
        )
    if call.extra.get("softcap") is not None:
        raise UnsupportedCallError(f"layer {call.layer} caps its scores (softcap), which is not supported.")
