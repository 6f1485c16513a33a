"""The FlexAttention executor: the same plans as block masks, compiled on CUDA.

Block masks come from the plan's ranges through `BlockMask.from_kv_blocks`, in O(blocks); `create_block_mask` would
evaluate all Q x K pairs. Uncompiled (CPU) FlexAttention materialises Q x K scores: exact, but for small tests only.
"""

from __future__ import annotations

import inspect
from functools import lru_cache

import torch
import torch._dynamo
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .chunked import take_rows
from .plan import FLEX_BLOCK as BLOCK
from .plan import Plan

GRAPHS = 256


def run_plan(
    plan: Plan,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    want_lse: bool,
    compiled: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of q [B, H, Q, D] over k, v [B, Hkv, K, D] by `plan` (even blocks of 128 rows).

    compiled: None compiles on CUDA only (on CPU torch compiles inference without lse).
    Returns output [B, H, Q, D] and lse [B, H, Q] | None.
    """
    if plan.order_q is not None:
        q, k, v = take_rows(q, plan.order_q), take_rows(k, plan.order_k), take_rows(v, plan.order_k)
    mask = block_mask(plan, q.shape[2], k.shape[2], q.device)
    output, lse = masked_attention(mask, q, k, v, scale, want_lse, compiled)
    if plan.order_q is not None:
        back = torch.argsort(plan.order_q)
        output = output.index_select(2, back)
        lse = None if lse is None else lse.index_select(2, back)
    return output, lse


def masked_attention(mask: BlockMask, q, k, v, scale: float, want_lse: bool, compiled: bool | None = None):
    """Output and lse | None of FlexAttention under a block mask; arguments as in `run_plan`."""
    run = _compiled(q.device.type) if compiled or (compiled is None and q.device.type == "cuda") else flex_attention
    grouped = q.shape[1] != k.shape[1]
    # Every rule, dtype and head count is a graph of its own; past dynamo's default of 8 it would go dense in silence.
    with torch._dynamo.config.patch(recompile_limit=GRAPHS):
        result = run(q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped, **_lse_request(want_lse))
    output, lse = result if want_lse else (result, None)
    return output, getattr(lse, "lse", lse)


def block_mask(plan: Plan, queries: int, keys: int, device: torch.device) -> BlockMask:
    """The plan as a BlockMask [1, 1, Q blocks, K blocks]; the token rule stays exact inside each block."""
    key_blocks = -(-keys // BLOCK)
    wanted = [_touched(plan.block_ranges(b)) for b in range(len(plan.blocks))]
    counts = torch.tensor([len(blocks) for blocks in wanted], dtype=torch.int32)
    # Entries past the count are never read, but they must be valid block numbers.
    indices = torch.zeros(len(wanted), key_blocks, dtype=torch.int32)
    for row, blocks in zip(indices, wanted, strict=True):
        row[: len(blocks)] = torch.tensor(blocks, dtype=torch.int32)

    def mask_mod(batch, head, query, key):
        return plan.visible(query, key)

    return BlockMask.from_kv_blocks(
        counts[None, None].to(device),
        indices[None, None].to(device),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(queries, keys),
    )


def _touched(ranges) -> list[int]:
    """Key blocks that the ranges touch, each once."""
    found: list[int] = []
    for low, high in ranges:
        found += [b for b in range(low // BLOCK, -(-high // BLOCK)) if not found or b > found[-1]]
    return found


@lru_cache(maxsize=2)
def _compiled(device_type: str):
    # On CPU, torch 2.13 generates wrong C++ for mask tensors of dynamic length: one graph per length there.
    return torch.compile(flex_attention, dynamic=False if device_type == "cpu" else None)


def _lse_request(want_lse: bool) -> dict:
    """The keyword that asks for the lse: torch 2.9 replaced return_lse by return_aux."""
    if not want_lse:
        return {}
    if "return_aux" not in inspect.signature(flex_attention).parameters:
        return {"return_lse": True}
    from torch.nn.attention.flex_attention import AuxRequest

    return {"return_aux": AuxRequest(lse=True)}
