"""A method that reads the whole prompt decides on the context alone; the tasks leave it one; others notice nothing."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import attnpatch
from attnpatch.evaluation import evaluate, metrics, scoring, tasks
from attnpatch.evaluation.decoding import score_decode
from attnpatch.evaluation.scoring import prompt_reader, score_prefill
from attnpatch.evaluation.suites import checked, load_suite
from attnpatch.methods.flux import Routers

CONTEXT = ("mqar_context", "local_context", "perplexity_context")
UNTRAINED = {"router": "untrained", "sink": 2, "local": 8}


@pytest.fixture
def decided(monkeypatch):
    """The logits of every decision."""
    found, real = [], Routers.logits

    def spy(self, call, prompts):
        found.append(real(self, call, prompts))
        return found[-1]

    monkeypatch.setattr(Routers, "logits", spy)
    return found


def scored(model, documents, decided, *, batch_size=4, score=score_prefill, method="flux", **options):
    decided.clear()
    with attnpatch.apply(model, method, **{**UNTRAINED, **options} if method == "flux" else options) as patch:
        records = score(model, documents, batch_size, lambda n: None).records
        return records, list(decided), patch.report()


def other_words(document, start: int):
    """The document with other tokens from `start` on."""
    ids = list(document.input_ids)
    ids[start:] = [3 + (token + 1) % 100 for token in ids[start:]]
    return replace(document, input_ids=tuple(ids))


def asked_by_the_suite() -> list[str]:
    return [task.name for task in checked(load_suite("flux")).tasks]


@pytest.mark.parametrize("name", asked_by_the_suite())
def test_what_is_scored_does_not_change_the_decision(sandbox_model, sandbox_tokenizer, decided, name):
    documents = tasks.available(sandbox_tokenizer)[name].documents(256, 8, 0)
    assert all(document.context <= document.answers[0] for document in documents)
    records, before, _ = scored(sandbox_model, documents, decided)
    assert [one["id"] for one in records] == [document.id for document in documents]
    changed = [other_words(document, document.context) for document in documents]
    _, after, _ = scored(sandbox_model, changed, decided)
    assert len(before) == len(after) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    within = [other_words(document, document.context - 1) for document in documents]
    _, moved, _ = scored(sandbox_model, within, decided)
    assert not torch.equal(before[0], moved[0])  # the last token of the context is read


def test_without_the_rule_it_would_read_the_answer(sandbox_model, sandbox_tokenizer, decided, monkeypatch):
    documents = tasks.available(sandbox_tokenizer)["needle"].documents(128, 1, 0)
    changed = [other_words(document, document.answers[0]) for document in documents]
    monkeypatch.setattr(scoring, "prompt_reader", lambda model: None)
    _, before, _ = scored(sandbox_model, documents, decided)
    _, after, _ = scored(sandbox_model, changed, decided)
    assert not torch.equal(before[0], after[0])


def test_decode_decides_on_what_it_prefills(sandbox_model, sandbox_tokenizer, decided):
    documents = tasks.available(sandbox_tokenizer)["copy_decode"].documents(128, 2, 0)
    _, before, _ = scored(sandbox_model, documents, decided, score=score_decode)
    changed = [other_words(document, document.answers[0]) for document in documents]
    _, after, _ = scored(sandbox_model, changed, decided, score=score_decode)
    assert len(before) == len(after) == 2  # once per layer, for both documents
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_documents_share_a_batch_where_their_contexts_end_together(sandbox_model, sandbox_tokenizer, decided):
    documents = tasks.available(sandbox_tokenizer)["mixed"].documents(256, 16, 0)
    together, decisions, report = scored(sandbox_model, documents, decided, batch_size=16)
    alone = [scored(sandbox_model, [document], decided, batch_size=1)[0][0] for document in documents]
    assert [one["id"] for one in together] == [one["id"] for one in alone]
    assert [one["nll"] for one in together] == pytest.approx([one["nll"] for one in alone], rel=1e-4)
    assert 0 < report.omega < 1
    alike = sorted(documents, key=lambda document: document.context)
    _, decisions, _ = scored(sandbox_model, alike, decided, batch_size=16)
    assert len(decisions) == 2 * len({document.context for document in documents})


def test_other_methods_run_as_ever(sandbox_model, sandbox_tokenizer, monkeypatch):
    documents = tasks.available(sandbox_tokenizer)["mixed"].documents(256, 8, 0)
    declared, real = [], attnpatch.Patch.prompt

    @contextmanager
    def spy(self, length):
        declared.append(length)
        with real(self, length):
            yield self

    monkeypatch.setattr(attnpatch.Patch, "prompt", spy)
    assert prompt_reader(sandbox_model) is None
    for method in ("stock", "sliding", "stochastic", "triangle"):
        with attnpatch.apply(sandbox_model, method):
            assert prompt_reader(sandbox_model) is None
            score_prefill(sandbox_model, documents, 4, lambda n: None)
    assert not declared
    with attnpatch.apply(sandbox_model, "xattention"):
        score_prefill(sandbox_model, documents, 4, lambda n: None)
    assert declared == [document.context for document in documents]


@pytest.mark.parametrize("name", CONTEXT)
def test_the_second_half_of_the_same_documents(sandbox_tokenizer, name):
    available = tasks.available(sandbox_tokenizer)
    whole = available[name.removesuffix("_context")].documents(512, 4, 0)
    for before, document in zip(whole, available[name].documents(512, 4, 0), strict=True):
        assert document.input_ids == before.input_ids
        assert document.context == 256
        assert document.answers == tuple(position for position in before.answers if position >= 256)
        for meta in ("gap", "depth"):
            if meta in before.meta:
                by_answer = dict(zip(before.answers, before.per_answer(meta), strict=True))
                assert document.per_answer(meta) == [by_answer[position] for position in document.answers]
        if "slices" in before.meta:
            names = [before.answers[i] for i in before.meta["slices"]["long_range"]]
            kept = [document.answers[i] for i in document.meta["slices"]["long_range"]]
            assert kept == [position for position in names if position >= 256]
    assert f"{name}_decode" not in available
    assert tasks.documents_hash(whole) != tasks.documents_hash(
        [replace(one, context_end=1) for one in whole]
    )  # what may be read is part of what is measured


def test_records_of_a_slice(sandbox_model, sandbox_tokenizer):
    task = tasks.available(sandbox_tokenizer)["perplexity_context"]
    records = score_prefill(sandbox_model, task.documents(512, 2, 0), 2, lambda n: None).records
    found = metrics.scores(task, records)
    assert set(found) == {"perplexity", "long_range_perplexity"}
    assert all(0 < few < many for few, many in zip(found["long_range_perplexity"]["weights"], (300, 300), strict=True))


def test_mixed_is_one_of_each_in_turn(sandbox_tokenizer):
    available = tasks.available(sandbox_tokenizer)
    documents = available["mixed"].documents(512, 11, 0)
    assert [one.id for one in documents[:2]] == ["needle/0", "needles16/0"]
    assert documents[8].id == "needle/1"
    kinds = [document.meta["kind"] for document in documents]
    assert len(set(kinds[:8])) == 8
    assert kinds[8:] == kinds[:3]
    own = available["copy"].documents(512, 1, 0)[0]
    assert next(one for one in documents if one.meta["kind"] == "copy").input_ids == own.input_ids


@pytest.mark.parametrize("end", [0, 6])
def test_a_context_that_holds_the_answer_is_refused(end):
    with pytest.raises(ValueError, match="context_end must be 1 to 5"):
        tasks.Document("a", range(9), (5,), context_end=end)


def test_omega_in_cells_rows_and_tables(sandbox_model, sandbox_tokenizer):
    results = evaluate(
        sandbox_model, sandbox_tokenizer, tasks=["needle", "local_context"], lengths=[128], limit=2, speed_rounds=0,
        methods=["sliding:window=8", {"name": "flux", "label": "half", "options": {"plan": "fs", "local": 8}}],
    )  # fmt: skip
    assert results.problems() == []
    assert [cell["omega"] for cell in results.cells] == [None] * 4 + [0.5] * 2
    assert [row.omega for row in results.rows if row.method == "half" and row.metric == "accuracy"] == [0.5, 0.5]
    assert {line["omega"] for line in results.records()} == {None, 0.5}
    text = results.to_markdown()
    assert "| half | 0.50 | 0.50 | 0.50 |" in text
    assert "| method | keys | Ω | value |" in text
    assert "Ω: share of" in text
    plain = evaluate(sandbox_model, sandbox_tokenizer, methods=["sliding"], lengths=[128], limit=2, speed_rounds=0)
    assert "Ω" not in plain.to_markdown()
