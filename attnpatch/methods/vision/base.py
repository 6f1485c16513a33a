"""What the methods about image tokens share: which rows they edit, and what they do without an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from pydantic import Field

from attnpatch.patching.method import Config, Method

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call
    from attnpatch.patching.sites import Site


class VisionConfig(Config):
    text_only: Literal["error", "stock"] = Field(
        "error", description="a batch without any image: refuse it, or let it through untouched"
    )


class VisionMethod(Method):
    """A method that acts on prompts with images; rows without one stay as they are, bit for bit."""

    Config = VisionConfig
    needs_images = True

    def check(self, site: Site) -> str | None:
        if site.softcap:
            return "the layer caps its attention scores (softcap), which rows that are computed anew do not"
        return None


class Rows(NamedTuple):
    """Query rows of a call: from `first` on, those where `mask` `[B, Q - first]` is True (None: all)."""

    first: int
    mask: torch.Tensor | None


def answer_rows(call: Call) -> Rows | None:
    """The rows that predict an answer token, of the prompts that have an image; None if there is none in this call.

    These are the last token of the prompt and all generated ones; padding and other rows of the batch are left out.
    """
    memo = ("answer rows", call.query.shape[2])
    if memo not in call.forward.memo:
        call.forward.memo[memo] = _answer_rows(call)
    return call.forward.memo[memo]


def _answer_rows(call: Call) -> Rows | None:
    images, count = call.images, call.query.shape[2]
    if images is None:
        return None
    spans, prompt = call.spans, call.forward.prompt_end
    if spans is None:
        first = max(prompt - 1 - call.offset, 0)
        if first >= count:
            return None
        return Rows(first, None if images.all else images.rows[:, None].expand(-1, count - first))
    last = [min(prompt, stop) - 1 - call.offset for _, stop in spans]  # of each prompt, as a row of this call
    first = max(min(last), 0)
    if first >= count:
        return None
    device = images.rows.device
    row = torch.arange(first, count, device=device)
    starts = torch.tensor(last, device=device)[:, None]
    stops = torch.tensor([stop - call.offset for _, stop in spans], device=device)[:, None]
    return Rows(first, images.rows[:, None] & (row >= starts) & (row < stops))


def layer_range(layers: tuple[int, int] | None, default: tuple[int, int], total: int) -> range:
    """The layers first..last, end inclusive; negative numbers count from the end, past the last one is the last."""
    first, last = layers if layers is not None else default
    first, last = (value + total if value < 0 else value for value in (first, last))
    return range(max(first, 0), min(last, total - 1) + 1)


def boost(scores: torch.Tensor, image: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """`scores` plus `by` where `image` (broadcastable); what is not visible (-inf) stays so."""
    return torch.where(image & (scores > -torch.inf), scores + by, scores)
