"""Parts of a call, which are batch rows, query rows or a sample of a packed row: their masks, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import masking_utils

from attnpatch.patching.errors import UnsupportedCallError
from attnpatch.patching.masks import LazyMask, MaskSpec

if TYPE_CHECKING:
    from attnpatch.patching.forward import Forward

Attended = tuple[torch.Tensor, torch.Tensor | None]


def mask_of_part(mask: torch.Tensor | None, part: Forward, window: int | None) -> torch.Tensor | None:
    """`mask` of the forward that `part` is made of, cut down to it; once per part and mask.

    window: the layer's own window, for samples of a packed row. Raises UnsupportedCallError for masks that cannot be
    cut: ready-made ones of a packed row, none at all for some of the query rows.
    """
    if isinstance(mask, LazyMask):
        memo = (id(mask.spec), window)
        if memo not in part.masks:
            # The whole mask is kept too: while it lives, nothing else has its id.
            part.masks[memo] = (LazyMask(_spec(mask.spec, part, window)), mask)
        return part.masks[memo][0]
    if part.rows is not None:  # a ready-made mask [B or 1, 1, Q, K], or nothing hidden but what comes later
        return mask if mask is None or mask.shape[0] == 1 else mask[list(part.rows)]
    if mask is None and part.sample is None and part.q_len == part.whole.q_len:
        return None
    if part.sample is None and mask is not None:
        first = part.offset - part.whole.offset
        return mask[:, :, first : first + part.q_len]
    raise UnsupportedCallError(
        "packed samples, and query rows that are treated differently, need a mask that transformers builds; pass the "
        "2-D attention_mask [batch, tokens], and run the model without torch.compile."
    )


def _spec(whole: MaskSpec, part: Forward, window: int | None) -> MaskSpec:
    if part.sample is not None:
        return _of_sample(whole, part.q_len, window)
    if part.rows is not None:
        return _of_rows(whole, part.rows)
    changed = {"q_length": part.q_len, "q_offset": part.offset}
    if part.q_len == 1:  # transformers takes a lone query for the newest token, which sees all keys
        changed["allow_is_causal_skip"] = False
    return MaskSpec(whole.base, {**whole.arguments, **changed})


def _of_rows(whole: MaskSpec, rows: tuple[int, ...]) -> MaskSpec:
    changed: dict[str, Any] = {"batch_size": len(rows)}
    if whole.padding is not None:
        changed["attention_mask"] = whole.padding[list(rows)]
    if whole.pattern.kind == "other":
        at = torch.tensor(rows, device=whole.arguments.get("device", "cpu"))
        rule = whole.arguments["mask_function"]
        changed["mask_function"] = lambda batch, head, query, key: rule(at[batch], head, query, key)
    return MaskSpec(whole.base, {**whole.arguments, **changed})


def _of_sample(whole: MaskSpec, tokens: int, window: int | None) -> MaskSpec:
    """What the sample would have asked for alone: transformers' packed rule is then its causal one."""
    rule = masking_utils.causal_mask_function
    if window is not None:
        rule = masking_utils.sliding_window_causal_mask_function(window)
    changed = {
        "batch_size": 1,
        "q_length": tokens,
        "kv_length": tokens,
        "q_offset": 0,
        "kv_offset": 0,
        "attention_mask": None,
        "mask_function": rule,
        "local_size": window,
        "allow_is_causal_skip": True,
        "use_vmap": False,
    }
    return MaskSpec(whole.base, {**whole.arguments, **changed})


def joined_queries(parts: list[Attended]) -> Attended:
    """One output `[B, Q, H, D]` and weights `[B, H, Q, K]` from parts of the query rows, in their order."""
    return torch.cat([output for output, _ in parts], 1), _weights(parts, 2)


def joined_rows(parts: list[tuple[list[int], Attended]]) -> Attended:
    """One output and weights from (batch rows, what was computed for them), every row in its place."""
    done = [attended for _, attended in parts]
    output, weights = torch.cat([output for output, _ in done]), _weights(done, 0)
    back = torch.tensor([row for rows, _ in parts for row in rows], device=output.device).argsort()
    return output.index_select(0, back), None if weights is None else weights.index_select(0, back)


def _weights(parts: list[Attended], dim: int) -> torch.Tensor | None:
    weights = [weights for _, weights in parts]
    if any(one is None for one in weights):
        return None
    keys = max(one.shape[-1] for one in weights)  # the stock attention sees all of a static cache
    return torch.cat([F.pad(one, (0, keys - one.shape[-1])) for one in weights], dim)
