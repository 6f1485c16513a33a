"""Plans: every visible pair is scored exactly once, and little else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch.kernels import Causal, PermutedBuckets, PermutedWindow, Window
from attnpatch.kernels.permuted import buckets_plan, slots_plan
from attnpatch.kernels.plan import Plan, Run
from attnpatch.kernels.planning import plans
from attnpatch.kernels.rules import Permuted
from attnpatch.kernels.spans import Geometry
from attnpatch.kernels.window import window_plan

from .cases import shuffled
from .test_rules import RULE, dense


def counts(plan: Plan, at: Geometry) -> torch.Tensor:
    """How often each (query, key) pair is scored and visible: [n, n] in original indices."""
    found = torch.zeros(at.n, at.n, dtype=torch.long)
    order_q = torch.arange(at.last - at.first) if plan.order_q is None else plan.order_q
    order_k = torch.arange(at.key_last - at.key_first) if plan.order_k is None else plan.order_k
    for run in plan.runs(4):
        for rows, keys in zip(run.rows("cpu"), run.keys("cpu"), strict=True):
            seen = plan.visible(rows[:, None], keys[None, :])
            i, j = order_q[rows] + at.first, order_k[keys] + at.key_first
            found.index_put_((i[:, None], j[None, :]), seen.long(), accumulate=True)
    return found


@settings(max_examples=200, deadline=None)
@given(
    rule=RULE | st.just(Causal()),
    n=st.integers(1, 90),
    block=st.sampled_from([1, 4, 7, 32]),
    even=st.booleans(),
    data=st.data(),
)
def test_every_visible_pair_once(rule, n, block, even, data):
    last = data.draw(st.integers(1, n))
    first = data.draw(st.integers(0, last - 1))
    key_first = data.draw(st.integers(0, first))
    at = Geometry(first, last, key_first, last, n)
    slots = rule.slots(n) if isinstance(rule, Permuted) else None
    total = sum(counts(plan, at) for plan in plans(rule, at, slots, block, block, even))
    expected = dense(rule, n).long()
    expected[:first] = expected[last:] = expected[:, :key_first] = 0
    assert torch.equal(total, expected)


@pytest.mark.parametrize(
    "rule", [PermutedWindow(shuffled, 30, 20, sink=2, local=3), PermutedBuckets(shuffled, 40, 1, 2, 3)], ids=str
)
def test_permuted_part_leaves_sinks_and_local_keys_out(rule):
    at = Geometry(0, 400, 0, 400, 400)
    make = slots_plan if isinstance(rule, PermutedWindow) else buckets_plan
    plan = make(rule, shuffled(400).argsort(), at, 16)
    i, j = torch.arange(400)[:, None], torch.arange(400)
    assert torch.equal(counts(plan, at).bool(), dense(rule, 400) & (j >= 2) & (i - j >= 3))
    assert plan.may_be_empty


def test_work_is_linear_in_the_window():
    at = Geometry(0, 4096, 0, 4096, 4096)
    assert window_plan(Window(256, sink=4), at, 64).scored < 4096 * (256 + 64 + 4)
    slots = PermutedWindow(shuffled, 128, 127)
    assert slots_plan(slots, slots.slots(4096), at, 64).scored <= 4096 * (256 + 64)
    buckets = PermutedBuckets(shuffled, 256)
    assert buckets_plan(buckets, buckets.slots(4096), at, 64).scored == 4096 * (256 + 64) // 2


def test_a_decode_row_touches_its_window_only():
    at = Geometry(5000, 5001, 0, 5001, 5001)
    (plan,) = plans(Window(100, sink=4), at, None, 192, 128, False)
    assert plan.ranges == ((0, 4), (4900, 5001))


def test_short_prompts_stay_in_the_original_order():
    rule = PermutedWindow(shuffled, 100, 100)
    names = {}
    for n in (300, 4000):
        at = Geometry(0, n, 0, n, n)
        names[n] = [plan.name for plan in plans(rule, at, rule.slots(n), 192, 128, False)]
    assert names == {300: ["prefix"], 4000: ["slots"]}


def test_blocks_that_see_many_keys_have_fewer_rows():
    def block(rule, n):
        at = Geometry(n - 1000, n, 0, n, n)
        slots = rule.slots(n) if isinstance(rule, Permuted) else None
        (plan,) = plans(rule, at, slots, 192, 128, False)
        return plan.blocks[0][1]

    assert block(Causal(), 4096) == 192
    assert block(Causal(), 1 << 17) == 64
    assert block(Window(256), 1 << 17) == 192


def test_runs_join_shifted_blocks():
    plan = Plan(
        "x",
        blocks=((0, 4), (4, 8), (8, 12), (12, 14)),
        pointers=(0, 1, 3, 5, 7),
        ranges=((0, 4), (0, 2), (3, 8), (0, 2), (7, 12), (0, 2), (11, 14)),
        band=lambda a, b: b <= a,
    )
    assert plan.runs(8) == [
        Run(0, 4, 0, 1, ((0, 4, 0),)),
        Run(4, 4, 4, 2, ((0, 2, 0), (3, 5, 4))),
        Run(12, 2, 0, 1, ((0, 2, 0), (11, 3, 0))),
    ]
    assert len(plan.runs(1)) == 4
    assert plan.scored == 16 + 28 + 28 + 10
