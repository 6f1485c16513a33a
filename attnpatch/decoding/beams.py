"""Which row each row goes on from, read from the sequences alone."""

from __future__ import annotations

import torch

from attnpatch.patching.errors import UnsupportedCallError


def parents(before: torch.Tensor, now: torch.Tensor, copies: int) -> torch.Tensor | None:
    """For each row of `now` `[B * copies, T + 1]`, the row of `before` `[B * copies, T]` that it continues.

    Only the `copies` rows of the same prompt are looked at; among rows that are equal any will do, for they went
    through the same. None if each row continues itself. Raises UnsupportedCallError if a row continues none of them.
    """
    old, new = before.unflatten(0, (-1, copies)), now[:, :-1].unflatten(0, (-1, copies))
    same = (new[:, :, None] == old[:, None]).all(-1)  # [B, copies now, copies before]
    if not bool(same.any(-1).all()):
        raise UnsupportedCallError(
            "the sequences do not continue those of the step before. A companion's processor serves one generate() "
            "call, by greedy decoding, sampling or beam search: get a new one with companion.processor(model, inputs)."
        )
    itself = torch.eye(copies, dtype=torch.bool, device=now.device)
    if bool((same & itself).any(-1).all()):
        return None
    first = torch.arange(len(old), device=now.device)[:, None] * copies
    return (first + same.int().argmax(-1)).flatten()
