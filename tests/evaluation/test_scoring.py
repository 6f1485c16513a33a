"""Scoring: right answers count as right, at the right position, in prefill and in decode."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from attnpatch.evaluation import metrics, tasks
from attnpatch.evaluation.decoding import score_decode
from attnpatch.evaluation.scoring import score_prefill
from attnpatch.evaluation.speed import Meter
from attnpatch.evaluation.tasks import Document


class Oracle(torch.nn.Module):
    """Knows that token t + 1 follows token t, and is sure of it by `logit`."""

    def __init__(self, vocabulary: int = 50, logit: float = 5.0) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, 1)
        self.vocabulary, self.logit = vocabulary, logit

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, use_cache=False, past_key_values=None):
        logits = torch.nn.functional.one_hot((input_ids + 1) % self.vocabulary, self.vocabulary) * self.logit
        return SimpleNamespace(logits=logits.float(), past_key_values=object())


DOCUMENTS = [
    Document("a", (3, 4, 9, 10, 20, 21), (1, 3, 5), {"depth": [0.1, 0.2, 0.9]}),
    Document("b", (3, 5, 9, 10, 20, 22), (1, 3, 5), {"depth": [0.1, 0.2, 0.9]}),
]


@pytest.mark.parametrize("score", [score_prefill, score_decode])
def test_oracle(score):
    documents = (
        DOCUMENTS if score is score_prefill else [Document(d.id, (7, 8, *d.input_ids), (3, 5, 7)) for d in DOCUMENTS]
    )
    outcome = score(Oracle(), documents, 2, lambda n: None)
    assert [one["id"] for one in outcome.records] == ["a", "b"]
    assert [one["hits"] for one in outcome.records] == [[1, 1, 1], [0, 1, 0]]
    right = math.log(math.exp(5) + 49) - 5
    wrong = math.log(math.exp(5) + 49)
    assert outcome.records[0]["nll"] == pytest.approx(3 * right, rel=1e-5)
    assert outcome.records[1]["nll"] == pytest.approx(right + 2 * wrong, rel=1e-5)


def test_decode_of_stock_equals_prefill(sandbox_model, sandbox_tokenizer):
    documents = tasks.available(sandbox_tokenizer)["copy"].documents(96, 4, 0)
    whole = score_prefill(sandbox_model, documents, 2, lambda n: None).records
    fed = score_decode(sandbox_model, documents, 2, lambda n: None).records
    for a, b in zip(whole, fed, strict=True):
        assert a["predicted"] == b["predicted"]
        assert a["nll"] == pytest.approx(b["nll"], rel=1e-4)


def test_logits_at_chosen_positions_only(sandbox_model, sandbox_tokenizer, monkeypatch):
    documents = tasks.available(sandbox_tokenizer)["mqar"].documents(160, 3, 0)
    short = score_prefill(sandbox_model, documents, 3, lambda n: None).records
    monkeypatch.setattr("attnpatch.evaluation.scoring.keeps_logits", lambda model: False)
    full = score_prefill(sandbox_model, documents, 3, lambda n: None).records
    assert [a["predicted"] for a in short] == [a["predicted"] for a in full]
    assert [a["nll"] for a in short] == pytest.approx([a["nll"] for a in full], rel=1e-5)


def test_candidates_are_scored_apart():
    logits = torch.zeros(1, 10)
    logits[0, 9], logits[0, 4] = 2.0, 1.0  # the best token is no candidate; the best candidate is right
    one = metrics.record(Document("a", (1, 4), (1,), {"candidates": [3, 4]}), logits)
    assert (one["correct"], one["candidates_correct"]) == (0, 1)


def test_slices():
    logits = torch.zeros(2, 10)
    document = Document("a", (1, 4, 5), (1, 2), {"slices": {"long_range": [1]}})
    one = metrics.record(document, logits)
    task = SimpleNamespace(metric="perplexity")
    found = metrics.scores(task, [one])
    assert found["perplexity"] == {"sums": [pytest.approx(2 * math.log(10))], "weights": [2]}
    assert found["long_range_perplexity"] == {"sums": [pytest.approx(math.log(10))], "weights": [1]}


def test_overflow_is_an_error_not_a_nan():
    one = metrics.record(Document("a", (1, 4), (1,)), torch.full((1, 10), float("nan")))
    with pytest.raises(FloatingPointError, match="--dtype float32"):
        metrics.scores(SimpleNamespace(metric="perplexity"), [one])


def test_depth_bins():
    records = score_prefill(Oracle(), DOCUMENTS, 2, lambda n: None).records
    found = metrics.by_depth(records)
    assert found["total"] == [2, 2, 0, 0, 0, 0, 0, 2]
    assert found["correct"] == [1, 2, 0, 0, 0, 0, 0, 1]


def test_first_batch_is_warm_up():
    meter = Meter()
    assert meter.to_dict() is None
    meter.batches = [(100, 10.0), (100, 1.0), (100, 2.0), (100, 1.0)]
    assert meter.to_dict() == {"tokens_per_s": 100, "tokens": 300, "seconds": 4.0, "batches": 3, "warm_up_only": False}
    meter.batches = [(100, 10.0)]
    assert meter.to_dict()["warm_up_only"]
