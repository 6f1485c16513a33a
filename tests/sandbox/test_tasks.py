"""The sandbox generators: exact lengths, seeds, streams, and rows that an exact reader can answer."""

from __future__ import annotations

from itertools import pairwise

import pytest

from attnpatch.sandbox import TASKS, samples
from attnpatch.sandbox.text import vocabulary as v

LENGTHS = (128, 512)
ALL = [(task, length) for task in TASKS for length in LENGTHS]


def words(sample):
    return v.text(sample.input_ids).split()


def solve(row: list[str], position: int) -> str:
    """What must stand at `position`, read from the words before it only."""
    before = row[:position]
    if before[-1] in v.NUMBERS and before[-2:-1] == ["is"]:
        raise AssertionError("asked beyond the end of a sum")
    if before[-1] == "is":
        a, sign, b = int(before[-4]), before[-3], int(before[-2])
        return str(a + b if sign == "plus" else a - b)
    if before[-1] == "says":
        return v.SOUNDS[v.ANIMALS.index(before[-2])]
    count = max((i for i, word in enumerate(before) if word == "count"), default=-9)
    if 0 <= position - count <= 4:
        return str(int(before[-1]) + 1)
    for mark in ("copy", "passkey"):
        if mark in before:
            start = before.index(mark)
            again = before.index(mark, start + 1)
            return before[start + position - again]
    known = {}
    for i, word in enumerate(before[:-2]):
        if word in ("key", "let"):
            known[before[i + 1]] = before[i + 2]
    return known[before[-1]]


@pytest.mark.parametrize(("task", "length"), [case for case in ALL if case[0] != "perplexity"])
def test_an_exact_reader_solves_every_answer(task, length):
    for sample in samples(task, length, 8):
        row = words(sample)
        assert sample.answer_positions
        for position in sample.answer_positions:
            assert solve(row, position) == row[position]


@pytest.mark.parametrize(("task", "length"), ALL)
def test_rows_have_the_exact_length_and_known_labels(task, length):
    for sample in samples(task, length, 8):
        assert len(sample.input_ids) == len(sample.weights) == length
        assert sample.input_ids[0] == v.ID[v.BOS]
        assert sample.input_ids.count(v.ID[v.BOS]) == 1
        assert all(0 < position < length for position in sample.answer_positions)
        assert all(sample.weights[position] > 0 for position in sample.answer_positions)
        assert sample.answer_positions == sorted(set(sample.answer_positions))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("odd", [0, 1, 7])
def test_every_length_from_the_smallest_on_works(task, odd):
    length = TASKS[task].smallest + odd
    assert [len(sample.input_ids) for sample in samples(task, length, 20)] == [length] * 20


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_depends_on_its_index_only(task):
    assert samples(task, 256, 6)[:3] == samples(task, 256, 3)
    assert samples(task, 256, 3, seed=1) != samples(task, 256, 3)


@pytest.mark.parametrize("task", TASKS)
def test_streams_share_no_row(task):
    rows = [
        {tuple(sample.input_ids) for sample in samples(task, 128, 100, stream)} for stream in ("train", "dev", "test")
    ]
    assert sum(map(len, rows)) == len(set.union(*rows))


def test_training_rows_are_not_test_rows():
    from attnpatch.sandbox.text.mixture import FULL, train_batch

    test = {tuple(sample.input_ids) for task in TASKS for sample in samples(task, 128, 100)}
    train = {tuple(s.input_ids) for step in range(20) for _, s in train_batch(0, step, 16, 128, FULL)}
    assert len(train) == 320
    assert not train & test


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_the_needle_lies_at_the_stated_depth_and_gap(depth):
    for sample in samples("needle", 512, 10, depth=depth):
        row = words(sample)
        stated, asked = row.index("key"), row.index("ask")
        assert row[stated + 1] == row[asked + 1] == sample.meta["keys"][0]
        assert sample.meta["gap"] == asked - stated
        assert sample.meta["depth"] == pytest.approx((stated - 1) / (asked - 5))
        assert sample.meta["depth"] == pytest.approx(depth, abs=0.03)


@pytest.mark.parametrize("task", ["copy", "passkey"])
def test_quoted_words_stand_at_the_stated_depth(task):
    for sample in samples(task, 256, 5, depth=0.5):
        row = words(sample)
        first = row.index(task)
        assert row[first + 1 : first + 1 + len(sample.meta["words"])] == sample.meta["words"]
        assert sample.meta["gap"] == row.index(task, first + 1) - first
        assert len(set(sample.meta["words"])) == len(sample.meta["words"])
        assert sample.meta["depth"] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(("length", "pairs"), [(128, 4), (512, 16), (2048, 64)])
def test_mqar_asks_each_key_once_after_all_pairs(length, pairs):
    for sample in samples("mqar", length, 5):
        row, meta = words(sample), sample.meta
        assert meta["pairs"] == pairs == len(sample.answer_positions) == len(set(meta["candidates"]))
        assert row[1 : 1 + 4 * pairs : 4] == ["key"] * pairs
        assert "key" not in row[1 + 4 * pairs :]
        assert sorted(meta["keys"]) == sorted(row[2 : 2 + 4 * pairs : 4])
        for position, key, gap in zip(sample.answer_positions, meta["keys"], meta["gap"], strict=True):
            assert row[position - 2 : position] == ["ask", key]
            assert row[position - 1 - gap] == key
            assert row[position - gap] == row[position]
            assert sample.input_ids[position] in meta["candidates"]


def test_mqar_asks_most_keys_soon():
    gaps = [gap for sample in samples("mqar", 1024, 20) for gap in sample.meta["gap"]]
    assert sum(gap < 400 for gap in gaps) > sum(gap >= 400 for gap in gaps) > 20


def test_chain_spells_its_links():
    for sample in samples("chain", 256, 10):
        row = words(sample)
        spelled = row[row.index("ask") + 1 :]
        assert len(spelled) == sample.meta["hops"] + 1
        links = dict(sample.meta["links"])
        assert all(links[a] == b for a, b in pairwise(spelled))
        assert spelled[-1] in v.NUMBERS


def test_perplexity_marks_every_later_surname():
    for sample in samples("perplexity", 1024, 5):
        row, seen, expected = words(sample), {}, {}
        for i, word in enumerate(row):
            if word in v.FIRST_NAMES:
                if word in seen:
                    expected[i + 1] = i + 1 - seen[word][0]
                    assert row[i + 1] == seen[word][1]
                seen[word] = (i + 1, row[i + 1])
        assert expected == dict(zip(sample.meta["long_range_positions"], sample.meta["long_range_gaps"], strict=True))
        assert [i for i, far in enumerate(sample.meta["long_range"]) if far] == sample.meta["long_range_positions"]
        assert max(expected.values()) > 256


def test_tokenizer_and_vocabulary_agree():
    assert len(v.ID) == len(v.WORDS)
    sample = samples("needles16", 256, 1)[0]
    tokenizer = v.build_tokenizer()
    text = " ".join(words(sample)[1:])
    assert tokenizer(text).input_ids == sample.input_ids
    assert tokenizer.decode(sample.input_ids, skip_special_tokens=True) == text
    assert tokenizer("xylophone", add_special_tokens=False).input_ids == [v.ID[v.UNK]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nedle", 512, 1), "Did you mean 'needle'"),
        (("needle", 8, 1), "use 16 to 4096"),
        (("needle", 5000, 1), "use 16 to 4096"),
        (("needle", 512, 1, "validation"), "Allowed: train, dev, test"),
        (("needle", 512, -1), "must not be negative"),
    ],
)
def test_bad_requests_say_what_works(arguments, says):
    with pytest.raises(ValueError, match=says):
        samples(*arguments)


def test_unknown_options_and_too_many_facts_are_refused():
    with pytest.raises(ValueError, match=r"no option 'depth'. Allowed: share"):
        samples("local", 128, 1, depth=0.5)
    with pytest.raises(ValueError, match="use at least"):
        samples("mqar", 128, 1, pairs=30)
    with pytest.raises(ValueError, match="use at least"):
        samples("needle", 128, 1, facts=40)
    with pytest.raises(ValueError, match="words must be 1 to 96, got 200"):
        samples("copy", 512, 1, words=200)
