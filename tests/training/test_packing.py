"""Packs: nothing lost, nothing twice, never too full, tasks in turn, and any step on its own."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch.training.packing import Draw, Plan, Rows, draws, greedy
from attnpatch.training.samples import Pack, Sample

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@st.composite
def problems(draw):
    count = draw(st.integers(1, 4))
    sources = [
        Rows(draw(st.sampled_from("abc")), draw(st.sampled_from([0.5, 1.0, 2.0])), draw(LENGTHS), draw(st.booleans()))
        for _ in range(count)
    ]
    return sources, draw(st.integers(1, 5)), draw(st.integers(40, 90)), draw(st.booleans()), draw(st.integers(0, 9))


def plan(problem) -> Plan:
    sources, packs, pack_tokens, balance, seed = problem
    return Plan(draws(sources, seed, balance), packs, pack_tokens)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_every_step_has_its_packs_and_none_is_too_full(problem):
    sources, packs, pack_tokens, _, _ = problem
    made = plan(problem)
    for step in range(4):
        found = made.step(step)
        assert len(found) == packs
        for pack in found:
            assert pack
            assert sum(one.length for one in pack) <= pack_tokens
            assert all(one.length == sources[one.source].lengths[one.row] for one in pack)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_no_sample_is_lost_or_used_twice(problem):
    sources, _, _, balance, seed = problem
    made = plan(problem)
    used = [one for step in range(5) for one in chain.from_iterable(made.step(step))]
    wanted = list(islice(draws(sources, seed, balance), len(used)))
    assert Counter(used) == Counter(wanted)
    assert max(Counter(used).values()) == 1


@settings(max_examples=60, deadline=None)
@given(problems())
def test_a_step_takes_as_much_as_fits(problem):
    sources, packs, pack_tokens, balance, seed = problem
    made = plan(problem)
    used = 0
    for step in range(4):
        used += sum(map(len, made.step(step)))
        following = next(islice(draws(sources, seed, balance), used, None))
        assert len(greedy([*chain.from_iterable(made.step(step)), following], pack_tokens)) > packs or (
            sum(one.length for pack in made.step(step) for one in pack) + following.length > packs * pack_tokens
        )


@settings(max_examples=60, deadline=None)
@given(problems())
def test_tasks_take_turns_whatever_the_size_of_their_sources(problem):
    sources, packs, pack_tokens, _, seed = problem
    made = Plan(draws(sources, seed, True), packs, pack_tokens)
    seen: Counter[str] = Counter({source.task: 0 for source in sources})
    for step in range(4):
        seen.update(sources[one.source].task for one in chain.from_iterable(made.step(step)))
        assert max(seen.values()) - min(seen.values()) <= 1


@settings(max_examples=40, deadline=None)
@given(problems(), st.permutations(range(4)))
def test_a_step_does_not_depend_on_what_was_asked_before(problem, order):
    whole = plan(problem)
    in_order = [whole.step(step) for step in range(4)]
    other = plan(problem)
    assert {step: other.step(step) for step in order} == dict(enumerate(in_order))


def test_an_epoch_has_every_row_once_in_an_order_of_its_own():
    rows = [Rows("a", 1.0, [5] * 20)]
    found = list(islice(draws(rows, 3, True), 60))
    epochs = [[one.row for one in found if one.epoch == epoch] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [one.row for one in islice(draws(rows, 4, True), 20)] != epochs[0]
    in_file_order = islice(draws([Rows("a", 1.0, [5] * 20, shuffle=False)], 3, True), 20)
    assert [one.row for one in in_file_order] == list(range(20))


def test_weights_share_a_task():
    rows = [Rows("a", 3.0, [1]), Rows("a", 1.0, [1]), Rows("b", 1.0, [1])]
    assert Counter(one.source for one in islice(draws(rows, 0, True), 80)) == {0: 30, 1: 10, 2: 40}
    assert Counter(one.source for one in islice(draws(rows, 0, False), 50)) == {0: 30, 1: 10, 2: 10}


def test_neighbours_in_length_share_a_pack():
    lengths = [8, 1, 7, 2, 6, 3, 5, 4]
    packs = greedy([Draw(0, 0, row, length) for row, length in enumerate(lengths)], 12)
    assert [[one.length for one in pack] for pack in packs] == [[8], [7], [6, 5], [4, 3, 2, 1]]


def test_few_long_samples_still_fill_every_pack():
    made = Plan(draws([Rows("a", 1.0, [10])], 0, True), 3, 100).step(0)
    assert [len(pack) for pack in made] == [10, 10, 10]
    made = Plan(draws([Rows("a", 1.0, [60])], 0, True), 3, 100).step(0)
    assert [len(pack) for pack in made] == [1, 1, 1]


def test_packs_know_where_samples_end():
    samples = [Sample((1,) * n, (1.0,) * n, 1, "a", str(n)) for n in (3, 5)]
    pack = Pack(tuple(samples))
    assert (pack.tokens, pack.lengths) == (8, (3, 5))
    assert samples[0].trained == 2


@pytest.mark.parametrize(
    "weights, end, message",
    [((1.0,), 1, "2 tokens, but 1 weights"), ((1.0, 1.0), 2, "got 2"), ((1.0, 1.0), 0, "got 0")],
)
def test_samples_that_make_no_sense(weights, end, message):
    with pytest.raises(ValueError, match=message):
        Sample((1, 2), weights, end, "a", "x")
