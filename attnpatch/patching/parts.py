"""The mask of a part of a forward: of some rows of the batch, some query rows, or one sample of a packed row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import masking_utils

from attnpatch.patching.errors import UnsupportedCallError
from attnpatch.patching.masks import LazyMask, MaskSpec

if TYPE_CHECKING:
    from attnpatch.patching.forward import Forward


def mask_of_part(mask: torch.Tensor | None, part: Forward, window: int | None) -> torch.Tensor | None:
    """`mask` of the forward that `part` is made of, cut down to it; once per part and mask.

    window: the layer's own window, for samples of a packed row. Raises UnsupportedCallError for ready-made masks.
    """
    if isinstance(mask, LazyMask):
        memo = ("mask", id(mask.spec), window)
        if memo not in part.spans_at:
            # The whole mask is kept too: while it lives, nothing else has its id.
            part.spans_at[memo] = (LazyMask(_spec(mask.spec, part, window)), mask)
        return part.spans_at[memo][0]
    if mask is None and part.rows is not None:
        return None  # nothing is hidden from any row but what comes later
    raise UnsupportedCallError(
        "parts of a batch that are treated differently need a mask that transformers builds, not a ready-made 4-D "
        "one; pass the 2-D attention_mask [batch, tokens] instead."
    )


def _spec(whole: MaskSpec, part: Forward, window: int | None) -> MaskSpec:
    if part.sample is not None:
        return _of_sample(whole, part.q_len, window)
    if part.rows is not None:
        return _of_rows(whole, part.rows)
    return MaskSpec(whole.base, {**whole.arguments, "q_length": part.q_len, "q_offset": part.offset})


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
