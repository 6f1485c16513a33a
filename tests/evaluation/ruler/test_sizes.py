"""Lengths that do not work: one error with the length that does, soon, and never a loop without an end."""

from __future__ import annotations

import re

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.ruler.counting import _least, occurrences
from attnpatch.evaluation.ruler.sizing import largest_count, smallest_length
from attnpatch.evaluation.ruler.specs import ALL

from .conftest import tokenizer_of


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("length", [40, 300])
def test_too_short_says_what_is_enough(tasks_of, name, length):
    build = tasks_of(tokenizer_of("bytes"))[name].build
    with pytest.raises(ValueError, match=rf"{name} does not fit into {length} tokens with the tokenizer '") as error:
        build(length, 4, 0)
    smallest = int(re.search(r"the smallest workable length is (\d+)$", str(error.value))[1])
    assert len(build(smallest, 4, 0)) == 4
    with pytest.raises(ValueError, match="smallest workable length"):
        build(smallest - 60, 4, 0)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name, length", [("ruler_vt", 1024), ("ruler_cwe", 4096)])
def test_bytes_never_hang(tasks_of, name, length):
    with pytest.raises(ValueError, match="smallest workable length is"):
        tasks_of(tokenizer_of("bytes"), word_list=None)[name].build(length, 2, 0)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["ruler_niah_single_1", "ruler_vt"])
def test_a_tokenizer_that_drops_text_is_refused(tasks_of, name):
    deaf = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"q": 0}, merges=[])))
    with pytest.raises(ValueError, match=f"{name} with the tokenizer '.*': .*drops the text"):
        tasks_of(deaf)[name].build(2000, 1, 0)


@pytest.mark.parametrize("name", ["ruler_niah_single_1", "ruler_vt", "ruler_fwe"])
def test_a_tokenizer_that_cannot_write_the_answer_is_refused(tasks_of, name):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "The": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    with pytest.raises(ValueError, match=f"{name}: the tokenizer '.*' cannot write the answer"):
        tasks_of(words)[name].build(2000, 1, 0)


def test_too_few_words_for_the_length(tasks_of, tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("\n".join(f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(50)))
    tasks = tasks_of(tokenizer_of("bpe"), word_list=str(path))
    with pytest.raises(SkipCell, match="needs more than the 50 words") as error:
        tasks["ruler_cwe"].documents(4000, 1, 0)
    assert "--word-list" in error.value.fix


@pytest.mark.parametrize("least, most", [(1, None), (5, None), (3, 400), (3, 12)])
@pytest.mark.parametrize("guess", [0, 8, 100, 5000])
def test_largest_count(least, most, guess):
    for budget in (90, 500, 1777):
        tries = []

        def tokens(count, tries=tries):
            tries.append(count)
            return 30 + 7 * count + count % 5

        found = largest_count(tokens, budget, least, most, guess)
        best = max((n for n in range(least, most or 1000) if tokens(n) <= budget), default=None)
        if most is not None and tokens(most) <= budget:
            best = most
        if tokens(least) > budget:
            assert found is None
        else:
            assert tokens(found) <= budget
            assert found == most or tokens(found + 1) > budget
            assert abs(found - best) <= 1
        assert all(least <= count <= (most or count) for count in tries if count != most)


@pytest.mark.parametrize("power", [0.9, 1.5, 3])
@pytest.mark.parametrize("guess", [1, 60, 4000])
@pytest.mark.parametrize("most", [None, 300, 100_000])
def test_largest_count_where_tokens_follow_no_straight_line(power, guess, most):
    for budget in range(40, 900, 37):
        found = largest_count(lambda count: 10 + int(count**power), budget, 2, most, guess)
        assert 10 + int(found**power) <= budget
        assert found == most or 10 + int((found + 1) ** power) > budget


def test_largest_count_gives_up_on_what_does_not_grow():
    with pytest.raises(ValueError, match="does not grow"):
        largest_count(lambda count: 3, 10, 1, None, 4)
    with pytest.raises(ValueError, match="does not grow"):
        largest_count(lambda count: 3 + (count > 10**9), 10, 1, None, 4)


def test_smallest_length():
    assert smallest_length(lambda length: 100 + length % 3, 7) in (100, 101, 102)
    assert smallest_length(lambda length: 5, 7) == 7
    assert smallest_length(lambda length: length + 1, 7) > 7  # never settles; comes back all the same


@pytest.mark.parametrize("vocabulary", [4, 5, 40])
def test_third_answer_is_more_frequent_than_the_next_word(vocabulary):
    for count in range(_least(vocabulary), 600):
        fourth = occurrences(count, 4)
        assert fourth >= 1
        assert vocabulary == 4 or fourth > occurrences(count, 5)
