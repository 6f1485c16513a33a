"""Rules: definitions, counts and bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch.kernels import Causal, PermutedBuckets, PermutedWindow, Window, attend, visible_mask

from .cases import RULES, inputs, shuffled


def dense(rule, n):
    """[n, n] mask of a rule (heads stacked in front if they differ)."""
    return visible_mask(rule, torch.arange(n), n, 1)[0].squeeze(0)


def test_window_rows_count_the_query_itself():
    mask = dense(Window(4), 16)
    assert mask.sum(1).tolist() == [1, 2, 3] + [4] * 13
    distance = torch.arange(16)[:, None] - torch.arange(16)
    assert torch.equal(mask, (distance >= 0) & (distance <= 3))


def test_window_sinks_are_not_counted_twice():
    mask = dense(Window(4, sink=2), 16)
    assert mask[10].nonzero().flatten().tolist() == [0, 1, 7, 8, 9, 10]
    assert mask[3].nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_reach_never_widens():
    mask = dense(Window(8, sink=4, reach=5), 30)
    assert torch.equal(mask, dense(Window(5), 30))


@pytest.mark.parametrize("seed", range(5))
def test_budget_of_a_two_sided_permuted_window(seed):
    """n = 400, 16 slots each side: 17.0 keys on average if circular, 16.66 if not, for every permutation."""
    order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
    circular = PermutedWindow(lambda n: order, 16, 16)
    assert circular.pairs(0, 400, 400) / 400 == 17.0
    assert circular.pairs(399, 400, 400) == 33
    assert round(PermutedWindow(lambda n: order, 16, 16, circular=False).pairs(0, 400, 400) / 400, 2) == 16.66
    assert PermutedBuckets(lambda n: order, 50).pairs(0, 400, 400) / 400 == 25.5


def test_identity_permutation_one_sided_is_a_sliding_window():
    identity = PermutedWindow(torch.arange, 12, 0, circular=False)
    assert torch.equal(dense(identity, 100), dense(Window(13), 100))
    q, k, v = inputs(queries=500)
    assert (attend(q, k, v, identity).output - attend(q, k, v, Window(13)).output).abs().max() < 2e-6


RULE = st.one_of(
    st.builds(Window, st.integers(1, 40), st.integers(0, 10), st.none() | st.integers(1, 50)),
    st.builds(
        PermutedWindow, st.just(shuffled), st.integers(0, 30), st.integers(0, 30), st.booleans(), st.integers(0, 9),
        st.integers(0, 12),
    ),
    st.builds(
        PermutedBuckets, st.just(shuffled), st.integers(1, 40), st.integers(0, 3), st.integers(0, 9),
        st.integers(0, 12),
    ),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(rule=RULE, n=st.integers(1, 90), data=st.data())
def test_pairs_and_sees_all_agree_with_the_mask(rule, n, data):
    first = data.draw(st.integers(0, n))
    last = data.draw(st.integers(first, n))
    mask = dense(rule, n)
    assert rule.pairs(first, last, n) == int(mask[first:last].sum())
    assert bool(mask.diagonal().all())
    assert not bool(mask.triu(1).any())
    if rule.sees_all(n):
        assert torch.equal(mask, dense(Causal(), n))


def test_pairs_are_the_mean_over_heads():
    rule = RULES["slots-heads"]
    assert rule.pairs(3, 80, 100) == pytest.approx(dense(rule, 100)[:, 3:80].sum().item() / 2)


@pytest.mark.parametrize(
    "rule, n, expected",
    [
        (Causal(), 5, True),
        (Window(8), 8, True),
        (Window(8), 9, False),
        (Window(6, sink=2), 8, True),
        (Window(8, reach=7), 8, False),
        (PermutedWindow(shuffled, 4, 3), 8, True),
        (PermutedWindow(shuffled, 4, 2), 8, False),
        (PermutedWindow(shuffled, 7, 7, circular=False), 8, True),
        (PermutedWindow(shuffled, 7, 6, circular=False), 8, False),
        (PermutedBuckets(shuffled, 8), 8, True),
        (PermutedBuckets(shuffled, 7, previous=1), 8, False),
    ],
)
def test_sees_all(rule, n, expected):
    assert rule.sees_all(n) is expected


def test_names():
    assert str(Window(1024, sink=4)) == "window 1024 + 4 sinks"
    assert str(PermutedWindow(shuffled, 512, 511)) == "permuted window 512+1+511 slots"
    assert str(PermutedBuckets(shuffled, 64, previous=1)) == "permuted buckets of 64 + 1 previous"


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: Window(0), ValueError, "window must be >= 1"),
        (lambda: Window(2.5), TypeError, "window must be an int"),
        (lambda: Window(True), TypeError, "window must be an int"),
        (lambda: Window(4, sink=-1), ValueError, "sink must be >= 0"),
        (lambda: Window(4, reach=0), ValueError, "reach must be >= 1"),
        (lambda: PermutedWindow("x", 1, 1), TypeError, "permutation must be callable"),
        (lambda: PermutedWindow(shuffled, -1, 1), ValueError, "before must be >= 0"),
        (lambda: PermutedBuckets(shuffled, 0), ValueError, "size must be >= 1"),
        (lambda: PermutedBuckets(shuffled, 3, length=0), ValueError, "length must be >= 1"),
    ],
)
def test_bad_rules(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    "order, error",
    [
        (lambda n: torch.zeros(n, dtype=torch.long), ValueError),
        (lambda n: torch.arange(n) + 1, ValueError),
        (lambda n: torch.arange(n + 1), ValueError),
        (lambda n: torch.rand(n), TypeError),
        (lambda n: list(range(n)), TypeError),
    ],
)
def test_bad_permutations(order, error):
    with pytest.raises(error, match="permutation"):
        attend(*inputs(queries=60), PermutedWindow(order, 3, 3))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"backend": "chunkd"}, "Did you mean 'chunked'"),
        ({"spans": [(0, 3)]}, "one \\(start, stop\\) per row"),
        ({"spans": [(5, 3), (0, 3)]}, "0 <= start <= stop"),
        ({"offset": -1}, "must be >= 0"),
        ({"offset": 5}, "every query needs its own key"),
        ({"sink_logits": torch.zeros(3)}, "sink_logits must have shape \\[4\\]"),
    ],
)
def test_bad_calls(change, words):
    q, k, v = inputs(queries=10)
    with pytest.raises(ValueError, match=words):
        attend(q, k, v, Window(4), **change)


def test_bad_shapes():
    q, k, v = inputs(queries=10)
    with pytest.raises(ValueError, match="multiple of key heads"):
        attend(q[:, :3], k, v, Window(4))
    with pytest.raises(ValueError, match="q, k, v must be"):
        attend(q, k, v[:, :, :5], Window(4))
    with pytest.raises(TypeError, match="rule must be a Rule"):
        attend(q, k, v, 1024)
    with pytest.raises(ValueError, match="length must cover"):
        attend(q, k, v, PermutedWindow(shuffled, 2, 2, length=9))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 70), st.booleans(), st.integers(0, 1))
def test_whole_prompts_are_counted_in_closed_form(n, half, circular, local):
    for rule in (
        PermutedWindow(shuffled, half, half, circular, local=local),
        PermutedBuckets(shuffled, half + 1, local=local),
    ):
        assert rule.pairs(0, n, n) == int(dense(rule, n).sum())
