"""Which executor runs where: the one place of choice."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import blocks, chunked
from .plan import FLEX_BLOCK


@dataclass(frozen=True)
class Executor:
    """Runs one plan: run(plan, q, k, v, scale, want_lse) -> (output, lse | None).

    run_blocks: the same for block lists, run_blocks(rule, at, q, k, v, scale, want_lse). For plans only: block and
    slots_block, query rows per block, the latter for exact slots, whose blocks need masks of their own; even, it
    needs blocks of exactly that size from row 0 on.
    """

    name: str
    run: Callable
    run_blocks: Callable
    block: int
    slots_block: int
    even: bool = False


def _run_flex(*arguments):
    from .flex import run_plan  # brings torch._dynamo along, which takes seconds to import

    return run_plan(*arguments)


def _run_flex_blocks(*arguments):
    from .flex_blocks import run_blocks

    return run_blocks(*arguments)


EXECUTORS = {
    "chunked": Executor("chunked", chunked.run_plan, blocks.run_blocks, chunked.BLOCK, chunked.SLOTS_BLOCK),
    "flex": Executor("flex", _run_flex, _run_flex_blocks, FLEX_BLOCK, FLEX_BLOCK, even=True),
}
BACKENDS = ("auto", "reference", *EXECUTORS)


def choose(backend: str, device: torch.device, rows: int) -> Executor | None:
    """The executor for `backend` on `device` and some query rows; None stands for the explicit reference.

    "auto": chunked SDPA on CPU; on CUDA compiled FlexAttention, but for decode rows, whose keys are a few slices.
    """
    if backend == "auto":
        backend = "flex" if device.type == "cuda" and rows > chunked.FEW_ROWS else "chunked"
    if backend == "reference":
        return None
    if backend not in EXECUTORS:
        near = difflib.get_close_matches(str(backend), BACKENDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}.{hint}")
    return EXECUTORS[backend]
