"""Scoring by generation: greedy whatever the checkpoint says, padding that changes nothing, NVIDIA's match."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

import attnpatch
from attnpatch.evaluation import metrics
from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.generation import cleaned, matches, prediction_record, score_generate
from attnpatch.evaluation.tasks.base import Document, Generation
from tests.tokens import byte_tokenizer
from tests.zoo import tiny_qwen3

EOS = 257


@pytest.fixture(scope="module")
def model():
    return tiny_qwen3(259)


def prompts(*lengths: int) -> list[Document]:
    return [Document(str(n), [(7 * i + n) % 250 for i in range(n)], (), {}, ("x",)) for n in lengths]


def generation(tokens: int = 12, match: str = "all") -> Generation:
    return Generation(byte_tokenizer(), tokens, match)


@torch.no_grad()
def by_hand(model, ids: list[int], tokens: int) -> list[int]:
    new: list[int] = []
    while len(new) < tokens and EOS not in new:
        new.append(int(model(input_ids=torch.tensor([[*ids, *new]])).logits[0, -1].argmax()))
    return new


def test_greedy_whatever_the_checkpoint_says(model, monkeypatch):
    wild = GenerationConfig(do_sample=True, temperature=3.0, repetition_penalty=9.0, min_new_tokens=12, num_beams=3)
    monkeypatch.setattr(model, "generation_config", wild)
    found = score_generate(generation(), model, prompts(20, 30), 1, lambda n: None).records
    tokenizer = byte_tokenizer()
    for document, one in zip(prompts(20, 30), found, strict=True):
        expected = by_hand(model, document.input_ids, 12)
        assert one["prediction"] == cleaned(tokenizer.decode(expected, skip_special_tokens=True))
        assert one["generated_tokens"] == len(expected)
        assert one["prompt_tokens"] == len(document.input_ids)
    assert model.generation_config is wild


def test_padding_changes_nothing(model):
    documents = prompts(20, 33, 27, 40, 20)
    one = score_generate(generation(), model, documents, 1, lambda n: None)
    many = score_generate(generation(), model, documents, 3, lambda n: None)
    assert one.records == many.records
    assert [tokens for tokens, _ in many.prefill.batches] == [80, 60]
    assert [tokens for tokens, _ in one.prefill.batches] == [20, 33, 27, 40, 20]
    assert sum(tokens for tokens, _ in many.decode.batches) == sum(r["generated_tokens"] - 1 for r in one.records)


def test_prompts_of_a_batch_are_routed_one_by_one(model):
    """flux reads whole prompts: padded ones are decided, and answered, as they are alone."""
    documents = prompts(20, 33, 27, 40, 20)
    found = []
    for batch_size in (1, 5):
        with attnpatch.apply(model, "flux", router="untrained", local=4, sink=1, seed=2) as patch:
            found.append(score_generate(generation(), model, documents, batch_size, lambda n: None).records)
            routes = [site.routes for site in patch.report().sites]
        found.append(routes)
    assert found[:2] == found[2:]
    assert any(len(site) == 2 for site in routes)  # not all of them took one way


def test_stops_at_the_end_token(model, monkeypatch):
    first = by_hand(model, prompts(20)[0].input_ids, 3)
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=[first[1], 300]))
    outcome = score_generate(generation(), model, prompts(20, 33), 2, lambda n: None)
    assert outcome.records[0]["generated_tokens"] == 2
    assert outcome.records[1]["generated_tokens"] > 2
    assert sum(tokens for tokens, _ in outcome.decode.batches) == 1 + outcome.records[1]["generated_tokens"] - 1


def test_progress_and_interruption(model, monkeypatch):
    before, seen = model.generation_config, []

    def advance(n):
        seen.append(n)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_generate(generation(3), model, prompts(20, 21, 22, 23, 24), 2, advance)
    assert seen == [2, 2]
    assert model.generation_config is before


def test_a_model_that_cannot_generate_is_a_skip():
    with pytest.raises(SkipCell, match="Linear cannot generate"):
        score_generate(generation(), torch.nn.Linear(2, 2), prompts(5), 1, lambda n: None)


def test_cleaned():
    assert cleaned(" \x07 Paris,\tFrance\x00 ") == "Paris,\nFrance"
    assert cleaned("\n\n") == ""


@pytest.mark.parametrize(
    "prediction, match, hits",
    [
        ("PARIS and lyon", "all", [1, 1, 0]),
        ("PARIS and lyon", "part", [1]),
        ("", "all", [0, 0, 0]),
        ("", "part", [0]),
        ("nice", "part", [1]),
        ("paris lyon nice", "all", [1, 1, 1]),
    ],
)
def test_matches(prediction, match, hits):
    assert matches(prediction, ("Paris", "Lyon", "Nice"), match) == hits


@pytest.mark.parametrize("match", ["all", "part"])
def test_perfect_is_100_and_empty_is_0(match):
    document = Document("0", [1, 2], (), {"depth": [0.2, 0.9]}, ("alpha", "beta"))
    task = SimpleNamespace(metric=f"string_match_{match}")
    for text, value in (("alpha, beta", 100), ("", 0)):
        record = prediction_record(document, text, 3, generation(match=match))
        assert record["score"] == value
        columns = metrics.scores(task, [record, record])[task.metric]
        assert metrics.METRICS[task.metric].interval(columns["sums"], columns["weights"]).value == value
    half = prediction_record(document, "beta", 3, generation(match=match))
    columns = metrics.scores(task, [half])[task.metric]
    assert metrics.METRICS[task.metric].interval(columns["sums"], columns["weights"]).value == (
        50 if match == "all" else 100
    )
    assert ("depth" in half) == (match == "all")  # a depth per reference does not fit one score for all of them


def test_differences_are_in_points():
    found = metrics.METRICS["string_match_all"].delta([1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 1, 1])
    assert found.value == pytest.approx(100 / 3)
    assert found.high <= 100
