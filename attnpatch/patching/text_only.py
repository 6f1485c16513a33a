"""Prompts without their images: which tokens are left, and what a model is given instead of the whole."""

from __future__ import annotations

from typing import Any

import torch

from attnpatch.patching.errors import UnsupportedCallError
from attnpatch.patching.images import ImageHost

PER_TOKEN = ("input_ids", "inputs_embeds", "token_type_ids", "mm_token_type_ids")


def text_only(
    host: ImageHost,
    given: dict[str, Any],
    images: torch.Tensor,
    rows: torch.Tensor,
    *,
    padding: torch.Tensor | None = None,
    stop: int | None = None,
    drop_wrappers: bool = True,
) -> dict[str, torch.Tensor]:
    """What `given` holds for each token, of the text of some prompts alone, left-padded, and its attention_mask.

    images: the image tokens of the whole batch, bool `[B, T]`; rows: numbers of the prompts; padding: real tokens
    `[B, T or more]`; stop: leave out the tokens from this index on. drop_wrappers: leave out tokens that are there
    only because an image is, as far as the config names them. Raises UnsupportedCallError for a prompt that is nothing
    but images.
    """
    keep = ~images[rows]
    if stop is not None:
        keep[:, stop:] = False
    if padding is not None:
        keep &= padding[rows][:, : keep.shape[1]].bool()
    if drop_wrappers and given.get("input_ids") is not None and host.wrappers:
        wrappers = torch.tensor(host.wrappers, device=keep.device)
        keep &= ~torch.isin(given["input_ids"][rows], wrappers)
    counts = keep.sum(1)
    if not bool(counts.all()):
        raise UnsupportedCallError("a prompt holds nothing but images; the pass without them needs some text.")
    length = int(counts.max())
    # A stable sort puts what is left out to the left and keeps the order of the rest.
    order = keep.int().argsort(dim=1, stable=True)[:, keep.shape[1] - length :]
    padded = length - counts[:, None]
    real = torch.arange(length, device=keep.device) >= padded
    order = torch.where(real, order, order.gather(1, padded))  # padding with text: an image token would count as image
    cut = {"attention_mask": real.long()}
    for name in PER_TOKEN:
        if given.get(name) is not None:
            values = given[name][rows]
            index = order.reshape(*order.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
            cut[name] = values.gather(1, index)
    return cut
