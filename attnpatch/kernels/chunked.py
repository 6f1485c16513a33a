"""The chunked executor: runs a plan block by block with scaled dot-product attention, no N x N anything.

Blocks of one shape a constant step apart are folded into the batch dimension of one call through
overlapping views, so long prompts need few calls and all cores stay busy.
"""

from __future__ import annotations

import torch

from .decode import decode
from .merge import merge
from .plan import Plan, Run
from .softmax import block_attention, fast_lse, needs_grad

# Query rows per block: few rows score few hidden keys, many rows run at a higher rate. Measured optima.
BLOCK = 192
SLOTS_BLOCK = 128
# Fold blocks until this many (head, block) units share a call; masks of their own stay below MASK_CELLS per call.
UNITS = 64
# Up to this many rows, the group of a GQA head is folded into them.
FEW_ROWS = 16
MASK_CELLS = 1 << 20


def run_plan(
    plan: Plan, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, want_lse: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of q [B, H, Q, D] over k, v [B, Hkv, K, D] by `plan`: output [B, H, Q, D], lse [B, H, Q] | None."""
    batch, heads = q.shape[:2]
    grad = needs_grad(q, k, v)
    order = plan.order_q
    if order is not None:
        k, v = take_rows(k, plan.order_k), take_rows(v, plan.order_k)
        if grad:  # one gather is one node of the graph
            q, order = take_rows(q, order), None
    result = _Pieces(plan, q, want_lse) if grad else _Buffer(plan, q, want_lse)
    fold = max(1, UNITS // heads)
    if not (plan.relative and plan.k_pos is None):
        cells = (plan.scored + len(plan.blocks) - 1) // len(plan.blocks)
        fold = max(1, min(fold, MASK_CELLS // max(cells, 1)))
    masks: dict = {}
    for run in plan.runs(fold):
        # Rows of the batch are as good as blocks for filling a call, and need no mask each.
        parts = [(run, slice(0, batch))] if batch == 1 else _split(run, batch)
        for part, members in parts:
            apart = plan.sinks and len(part.ranges) == 2 and fast_lse(q, k, v)
            work = _with_sinks if apart else _score
            rows = _rows(q[members], part, order)
            output, lse = work(plan, part, rows, k[members], v[members], scale, want_lse, masks)
            result.put(part, members, output, lse)
    return result.finish()


def _score(plan: Plan, run: Run, q, k, v, scale: float, want_lse: bool, masks: dict):
    """All blocks of a run in one call. q [B | count, H, size, D]: the run's rows; returns output like q, and lse."""
    attention = decode if run.size <= FEW_ROWS else block_attention
    return attention(
        q,
        _view(k, run.ranges, run.count),
        _view(v, run.ranges, run.count),
        mask=_mask(plan, run, q, masks),
        scale=scale,
        want_lse=want_lse,
        may_be_empty=plan.may_be_empty,
    )


def _with_sinks(plan: Plan, run: Run, q, k, v, scale: float, want_lse: bool, masks: dict):
    """`_score` for blocks whose first range is seen by all their rows: attention sinks.

    Scoring the sinks apart and merging costs a tenth of copying every block's keys behind them.
    """
    moving = Run(run.start, run.size, run.step, run.count, run.ranges[1:])
    low, width, _ = run.ranges[0]
    sinks = [x.narrow(2, low, width) for x in (k, v)]
    if run.count > 1:
        sinks = [x.expand(run.count, -1, -1, -1) for x in sinks]
    first = _score(plan, moving, q, k, v, scale, True, masks)
    output, lse = merge(first, decode(q, *sinks, scale=scale, want_lse=True))
    return output, lse if want_lse else None


def _split(run: Run, batch: int) -> list[tuple[Run, slice]]:
    """A run over several batch rows: fold blocks row by row, or rows block by block, whichever needs fewer calls."""
    if run.count > batch:
        return [(run, slice(row, row + 1)) for row in range(batch)]
    return [(run.take(t, 1), slice(0, batch)) for t in range(run.count)]


def _rows(q: torch.Tensor, run: Run, order: torch.Tensor | None) -> torch.Tensor:
    """The run's query rows of q [B, H, N, D]: [B | count, H, size, D]."""
    if order is None:
        return _view(q, [(run.start, run.size, run.step)], run.count)
    rows = take_rows(q, order[run.rows(q.device).flatten()])
    return rows if run.count == 1 else rows[0].unflatten(1, (run.count, run.size)).transpose(0, 1)


def _view(x: torch.Tensor, ranges, count: int) -> torch.Tensor:
    """Rows of x [B, H, N, D] in some ranges: [B, H, W, D] for one block, [count, H, W, D] for several (then B = 1)."""
    if count == 1:
        parts = [x.narrow(2, low, width) for low, width, _ in ranges]
    else:
        parts = []
        for low, width, step in ranges:
            if step:
                blocks = x[0].narrow(1, low, (count - 1) * step + width).unfold(1, width, step)
                parts.append(blocks.permute(1, 0, 3, 2))
            else:
                parts.append(x.narrow(2, low, width).expand(count, -1, -1, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _mask(plan: Plan, run: Run, q: torch.Tensor, known: dict) -> torch.Tensor:
    """Additive mask: [Q, W] if the run's blocks share it, else [count, 1, Q, W]. known: bands made so far."""
    if plan.ready is not None and q.device.type == "cpu":
        mask = plan.ready(run, q.dtype)
        if mask is not None:
            return mask
    hidden = torch.full((), -torch.inf, dtype=q.dtype, device=q.device)
    band = hidden.new_zeros(())
    if plan.band is not None:
        shared = plan.relative and run.count > 1
        place = (run.size, *((low - run.start if step else low, width) for low, width, step in run.ranges))
        if shared and place in known:
            band = known[place]
        else:
            one = run.take(0, 1) if plan.relative else run
            seen = plan.band(one.rows(q.device)[:, :, None], one.keys(q.device)[:, None, :])
            band = torch.where(seen, band, hidden)
            if shared:
                known[place] = band
        if plan.k_pos is None:
            return band[0] if plan.relative else band[:, None]
    in_time = plan.k_pos[run.keys(q.device)][:, None, :] <= plan.q_limit[run.rows(q.device)][:, :, None]
    return torch.where(in_time, band, hidden)[:, None]


def take_rows(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """x [B, H, N, D] reordered along N, gathered in the layout that moves whole rows."""
    if x.stride(1) < x.stride(2):
        return x.transpose(1, 2).index_select(1, order).transpose(1, 2)
    return x.index_select(2, order)


class _Buffer:
    """Collects block outputs in place (no gradients)."""

    def __init__(self, plan: Plan, q: torch.Tensor, want_lse: bool):
        batch, heads, rows, dim = q.shape
        self.order = plan.order_q
        # Memory order [B, Q, H, D]: what the host's reshape to hidden states wants.
        self.output = q.new_empty(batch, rows, heads, dim)
        self.lse = q.new_empty(batch, rows, heads, dtype=_lse_dtype(q)) if want_lse else None

    def put(self, run: Run, members: slice, output: torch.Tensor, lse: torch.Tensor | None) -> None:
        self._write(self.output[members], run, output.transpose(1, 2))
        if lse is not None:
            self._write(self.lse[members], run, lse.transpose(1, 2))

    def _write(self, target: torch.Tensor, run: Run, value: torch.Tensor) -> None:
        """target [B, N, H, ...] gets value [B | count, size, H, ...]."""
        if run.count > 1:
            value = value.flatten(0, 1)[None]
        if self.order is None and (run.count == 1 or run.step == run.size):
            target.narrow(1, run.start, run.count * run.size).copy_(value)
            return
        rows = run.rows(target.device).flatten()
        target.index_copy_(1, rows if self.order is None else self.order[rows], value.to(target.dtype))

    def finish(self):
        return self.output.transpose(1, 2), None if self.lse is None else self.lse.transpose(1, 2)


class _Pieces:
    """Collects block outputs as a list, so that autograd sees one concatenation and no in-place writes."""

    def __init__(self, plan: Plan, q: torch.Tensor, want_lse: bool):
        self.plan, self.batch, self.want_lse = plan, q.shape[0], want_lse
        self.rows: list[torch.Tensor] = []
        self.members: list[list] = []

    def put(self, run: Run, members: slice, output: torch.Tensor, lse: torch.Tensor | None) -> None:
        if run.count > 1:
            output = output.transpose(0, 1).flatten(1, 2)[None]
            lse = None if lse is None else lse.transpose(0, 1).flatten(1, 2)[None]
        if members.start == 0:
            self.rows.append(run.rows(output.device).flatten())
            self.members.append([])
        self.members[-1].append((output, lse))

    def finish(self):
        place = torch.cat(self.rows)
        if self.plan.order_q is not None:
            place = self.plan.order_q[place]
        back = torch.argsort(place)
        output = torch.cat([torch.cat([out for out, _ in part]) for part in self.members], 2).index_select(2, back)
        if not self.want_lse:
            return output, None
        lse = torch.cat([torch.cat([lse for _, lse in part]) for part in self.members], 2)
        return output, lse.index_select(2, back)


def _lse_dtype(q: torch.Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)
