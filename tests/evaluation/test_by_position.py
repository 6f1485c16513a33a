"""Perplexity along a document: every bin scored, at its end, and summed over documents."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from attnpatch.evaluation import evaluate, metrics, tasks
from attnpatch.evaluation.grids import grid_tables
from attnpatch.evaluation.tasks.base import Document
from attnpatch.evaluation.tasks.by_position import POSITIONS, STRETCH, by_position, position_bins

from .conftest import byte_tokenizer


@pytest.mark.parametrize("length", [9, 100, 1024, 4096])
def test_bins_cover_all_but_the_first_token(length):
    bins = position_bins(length)
    assert [bins[0][0], bins[-1][1]] == [1, length]
    assert all(stop == start for (_, stop), (start, _) in pairwise(bins))
    document = by_position(Document("0", list(range(length)), (3,)))
    assert len(document.answers) == sum(min(STRETCH, stop - start) for start, stop in bins)
    for index, (start, stop) in enumerate(bins):
        own = [document.answers[i] for i in document.meta["slices"][f"bin {index}"]]
        assert own == list(range(max(start, stop - STRETCH), stop))


def test_too_short():
    with pytest.raises(ValueError, match="use at least 9"):
        by_position(Document("0", list(range(8)), ()))


def test_likelihoods_stand_in_their_bins():
    document = by_position(Document("0", [0] * 17, ()))
    logits = torch.zeros(16, 4)
    logits[:8, 0] = 3.0  # the first half is easy
    found = metrics.by_position([metrics.record(document, logits)] * 2)
    easy, hard = math.log(1 + 3 * math.exp(-3)), math.log(4)
    assert found["tokens"] == [4.0] * POSITIONS
    assert found["nll"] == pytest.approx([4 * easy] * 4 + [4 * hard] * 4, rel=1e-5)
    assert metrics.by_position([{"id": "0"}]) is None


@pytest.mark.parametrize("kind", ["sandbox", "text"])
def test_a_row_per_method_and_a_column_per_bin(kind, sandbox_model, sandbox_tokenizer, byte_model):
    model, tokenizer = (sandbox_model, sandbox_tokenizer) if kind == "sandbox" else (byte_model, byte_tokenizer())
    results = evaluate(
        model, tokenizer, methods=["sliding:window=16"], tasks=["perplexity_by_position"], lengths=[256], limit=2,
        speed_rounds=0,
    )  # fmt: skip
    (table,) = grid_tables(results.cells)
    assert table.columns == ["keys", *(f"to {stop}" for stop in (32, 64, 96, 128, 160, 192, 224, 256))]
    assert [line.method for line in table.lines] == ["stock", "sliding(window=16)"]
    for cell, line in zip(results.cells, table.lines, strict=True):
        means = [n / t for n, t in zip(cell["positions"]["nll"], cell["positions"]["tokens"], strict=True)]
        assert [one.text for one in line.cells[1:]] == [f"{math.exp(mean):.2f}" for mean in means]
        assert sum(cell["positions"]["nll"]) == pytest.approx(sum(cell["scores"]["perplexity"]["sums"]))
    stock, sliding = (cell["positions"]["nll"] for cell in results.cells)
    assert sliding[-1] != stock[-1]
    assert "perplexity by position" in results.to_markdown()


def test_the_text_is_that_of_perplexity(sandbox_tokenizer):
    for tokenizer in (sandbox_tokenizer, byte_tokenizer()):
        found = tasks.available(tokenizer)
        for one, other in zip(
            found["perplexity"].documents(300, 2, 0), found["perplexity_by_position"].documents(300, 2, 0), strict=True
        ):
            assert len(one.input_ids) == len(other.input_ids)
            if tokenizer is sandbox_tokenizer:
                assert one.input_ids == other.input_ids
