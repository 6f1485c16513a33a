"""Documents: exact length, answers that stand in the context, the same ones every time."""

from __future__ import annotations

import pytest

from attnpatch.evaluation import tasks
from attnpatch.evaluation.errors import SkipCell, UsageError
from attnpatch.evaluation.tasks.language import Language
from attnpatch.sandbox.text.vocabulary import ID

from .conftest import byte_tokenizer, word_tokenizer

NAMES = ["needle", "needles16", "mqar", "copy", "passkey", "perplexity"]


@pytest.mark.parametrize("length", [640, 1003])
@pytest.mark.parametrize("name", NAMES)
def test_exact_length_and_sound_answers(any_tokenizer, name, length):
    task = tasks.available(any_tokenizer)[name]
    documents = task.documents(length, 3, 0)
    assert [document.id for document in documents] == ["0", "1", "2"]
    for document in documents:
        assert len(document.input_ids) == length
        assert list(document.answers) == sorted(set(document.answers))
        assert document.answers[0] >= 1
        assert document.answers[-1] < length
        assert min(document.input_ids) >= 0
        assert max(document.input_ids) < len(any_tokenizer.get_vocab())
        for name_ in ("depth", "gap"):
            if name_ in document.meta:
                assert len(document.per_answer(name_)) == len(document.answers)
    assert len({document.input_ids for document in documents}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_documents_depend_on_seed_and_index_only(any_tokenizer, name):
    task = tasks.available(any_tokenizer)[name]
    first = task.documents(1024, 3, 0)
    assert tasks.documents_hash(task.documents(1024, 3, 0)) == tasks.documents_hash(first)
    assert task.documents(1024, 5, 0)[:3] == first
    assert tasks.documents_hash(task.documents(1024, 3, 1)) != tasks.documents_hash(first)


@pytest.mark.parametrize("make", [byte_tokenizer, word_tokenizer])
def test_text_needles_can_be_read(make):
    tokenizer = make()
    document = tasks.available(tokenizer)["needle"].documents(400, 1, 0)[0]
    text = tokenizer.decode(document.input_ids).replace(" .", ".")
    head, _, tail = text.rpartition("The code of")
    question = ("The code of" + tail).strip()
    assert f"{question}." in head
    assert document.answers == (399,)


def test_text_starts_as_the_tokenizer_starts():
    document = tasks.available(word_tokenizer())["needle"].documents(200, 1, 0)[0]
    assert document.input_ids[0] == word_tokenizer().bos_token_id
    assert Language(byte_tokenizer()).start == []


@pytest.mark.parametrize("name", ["needles16", "mqar"])
def test_candidates_hold_the_answers(any_tokenizer, name):
    for document in tasks.available(any_tokenizer)[name].documents(1200, 2, 0):
        answers = [document.input_ids[p] for p in document.answers]
        assert len(set(answers)) == len(answers) >= 4
        assert sorted(answers) == document.meta["candidates"]
        for p, gap in zip(document.answers, document.meta["gap"], strict=True):
            assert document.input_ids[p] in document.input_ids[: p - gap + 24]


def test_words_are_single_tokens():
    language = Language(word_tokenizer())
    assert len(language.words) >= 64
    assert language.speaks_english
    letters = Language(byte_tokenizer())
    assert not letters.spaced
    assert {len(letters.tokenizer.decode([word])) for word in letters.words} == {1}


def test_sandbox_needles_cover_all_depths(sandbox_tokenizer):
    documents = tasks.available(sandbox_tokenizer)["needle"].documents(256, 16, 0)
    depths = [document.meta["depth"] for document in documents]
    assert max(abs(depth - ((i % 8) + 0.5) / 8) for i, depth in enumerate(depths)) < 0.05
    assert documents[0].input_ids != documents[8].input_ids


def test_sandbox_and_text_are_told_apart(sandbox_tokenizer):
    assert {task.source for task in tasks.available(sandbox_tokenizer).values()} == {"sandbox", "vision"}
    assert {task.source for task in tasks.available(byte_tokenizer()).values()} == {"text", "ruler", "vision"}
    assert sandbox_tokenizer.get_vocab() == ID


def test_surnames_are_a_slice_of_their_own(any_tokenizer):
    document = tasks.available(any_tokenizer)["perplexity"].documents(1024, 1, 0)[0]
    assert set(document.meta["slices"]["long_range"]) <= set(range(len(document.answers)))
    assert 3 < len(document.meta["slices"]["long_range"]) < len(document.answers) / 3


def test_decode_versions_ask_the_same(sandbox_tokenizer):
    found = tasks.available(sandbox_tokenizer)
    assert found["needle_decode"].mode == "decode"
    assert found["needle_decode"].documents(128, 2, 0) == found["needle"].documents(128, 2, 0)
    assert "perplexity_decode" not in found


def test_text_file(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("one two three four five six seven eight nine ten " * 20)
    tokenizer = byte_tokenizer()
    task = tasks.available(tokenizer, tasks.TaskOptions(text_file=str(path)))["perplexity"]
    first, second = task.documents(300, 2, 0)
    assert tokenizer.decode(first.input_ids + second.input_ids) == path.read_text()[:600]
    assert first.answers == tuple(range(150, 300))
    with pytest.raises(SkipCell, match="enough for 3 documents of 300"):
        task.documents(300, 4, 0)


@pytest.mark.parametrize("content", [None, "  \n"])
def test_bad_text_file(tmp_path, content):
    path = tmp_path / "book.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match="--text-file"):
        tasks.available(byte_tokenizer(), tasks.TaskOptions(text_file=str(path)))


def test_too_short_is_a_skip(any_tokenizer):
    with pytest.raises(SkipCell):
        tasks.available(any_tokenizer)["needles16"].documents(40, 1, 0)


def test_unknown_names():
    with pytest.raises(UsageError, match="Did you mean 'needle'"):
        tasks.check_names(["nedle"])
    with pytest.raises(SkipCell, match="'chain' has no version"):
        tasks.find(tasks.available(byte_tokenizer()), "chain")
