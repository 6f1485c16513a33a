"""The text rows of a prompt with images, which some methods edit beside those that predict the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from attnpatch.methods.vision.base import Rows, answer_rows

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call


def text_rows(call: Call, which: Literal["after_image", "last", "all_text"]) -> Rows | None:
    """Rows of text of the prompts that have an image; None if there is none in this call.

    which: behind the first image token; those that predict an answer token (`answer_rows`); all. Generated rows are
    among them, padding is not.
    """
    if which == "last":
        return answer_rows(call)
    memo = ("text rows", which, call.query.shape[2])
    if memo not in call.forward.memo:
        call.forward.memo[memo] = _text_rows(call, behind=which == "after_image")
    return call.forward.memo[memo]


def _text_rows(call: Call, *, behind: bool) -> Rows | None:
    images, count, spans = call.images, call.query.shape[2], call.spans
    if images is None:
        return None
    position = torch.arange(call.offset, call.end, device=images.rows.device)
    mask = images.rows[:, None] & ~images.keys(call.offset, count)
    if behind:
        mask = mask & (position > images.first[:, None])
    if spans is not None:
        edges = torch.tensor(spans, device=mask.device)
        mask = mask & (position >= edges[:, :1]) & (position < edges[:, 1:])
    among = mask.any(0).nonzero().flatten().tolist()
    return Rows(among[0], mask[:, among[0] :]) if among else None
