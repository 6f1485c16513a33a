"""The passkey grid: keys at the depths asked for, and beside them what the mask can pass on."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.evaluation import evaluate, metrics, tasks
from attnpatch.evaluation.grids import grid_tables
from attnpatch.evaluation.reaching import document_reach, rules_of
from attnpatch.evaluation.tasks.base import Document
from attnpatch.kernels import Causal, Window
from attnpatch.methods.sliding import Sliding
from attnpatch.methods.stochastic import Stochastic
from attnpatch.methods.stock import Stock
from attnpatch.patching.method import Method
from tests.zoo import TEXT_CONFIGS

from .conftest import byte_tokenizer


def test_rules_layer_by_layer(sandbox_model):
    assert rules_of(sandbox_model, Sliding(window=8, sink=2), 64, 0) == [Window(8, 2)] * 2
    assert rules_of(sandbox_model, Sliding(window=800), 64, 0) == [Causal()] * 2
    assert rules_of(sandbox_model, Stock(), 64, 0) == [Causal()] * 2
    first, again, other = (rules_of(sandbox_model, Stochastic(window=4), 64, index) for index in (0, 0, 1))
    assert first == again != other
    assert first[0] != first[1]


def test_layers_with_a_window_of_their_own_keep_it():
    from transformers import AutoModelForCausalLM

    mistral = AutoModelForCausalLM.from_config(TEXT_CONFIGS["mistral"]())  # window 8 in every layer
    assert rules_of(mistral, Stock(), 64, 0) == [Window(8)] * 2
    assert rules_of(mistral, Stochastic(window=4), 64, 0) == [Window(8)] * 2
    assert rules_of(mistral, Sliding(window=4, sink=1), 64, 0) == [Window(4, 1, reach=8)] * 2


class Reader(Method):
    """Decides by the data, so there is no mask before a prompt is read."""

    name = "reader"

    def attend(self, call, inner):
        return call.attend(Window(1 + int(call.key.norm() > 0)))


class Twice(Method):
    name = "twice"

    def attend(self, call, inner):
        inner(call)
        return inner(call)


@pytest.mark.parametrize("method", [Reader, Twice])
def test_unknown_is_not_guessed(sandbox_model, method):
    assert rules_of(sandbox_model, method(), 64, 0) is None
    document = Document("0", [0] * 64, (60,), {"gap": [30], "depth": [0.4]})
    assert document_reach(sandbox_model, method(), [document], 1) is None
    assert metrics.reach_by_depth([{"depth": [0.4]}], None) is None


def test_reach_of_documents_by_window_and_layers(sandbox_model):
    documents = [Document("0", [0] * 100, (90, 91), {"gap": [gap, gap]}) for gap in (14, 15, 16, 89, 88)]
    # Two layers of window 8: 14 tokens back from position 89; the sinks are tokens 0 and 1.
    assert document_reach(sandbox_model, Sliding(window=8, sink=2), documents, 1) == [1, 1, 0, 1, 0]
    assert document_reach(sandbox_model, Stock(), documents, 1) == [1] * 5


def test_reach_is_what_a_forward_shows(sandbox_model, sandbox_tokenizer):
    """Change the first digit of the key: the answer's logits move if and only if it is in reach."""
    documents = tasks.available(sandbox_tokenizer)["passkey_grid"].documents(96, 8, 0)
    methods = [Sliding(window=12, sink=3), Stochastic(window=4, seed=3)]
    seen = []
    for method in methods:
        expected = document_reach(sandbox_model, method, documents, 1)
        with attnpatch.apply(sandbox_model, method) as patch:
            for index, (document, reached) in enumerate(zip(documents, expected, strict=True)):
                answer = document.answers[0]
                ids = torch.tensor([document.input_ids, document.input_ids])
                fact = answer - int(document.per_answer("gap")[0])
                ids[1, fact] = (ids[1, fact] + 1) % 100
                patch.reset()
                for _ in range(index):  # sequences are numbered since the patch began
                    sandbox_model(input_ids=ids[:1, :2])
                logits = sandbox_model(input_ids=ids, use_cache=False).logits[:, answer - 1]
                assert bool((logits[0] != logits[1]).any()) == bool(reached)
        seen += expected
    assert set(seen) == {0, 1}


@pytest.mark.parametrize("kind", ["sandbox", "text"])
def test_grid(kind, sandbox_model, sandbox_tokenizer, byte_model):
    model, tokenizer = (sandbox_model, sandbox_tokenizer) if kind == "sandbox" else (byte_model, byte_tokenizer())
    results = evaluate(
        model, tokenizer, methods=["sliding:window=64,sink=0"], tasks=["passkey_grid"], lengths=[480], limit=6,
        depths=[0, 50, 100], speed_rounds=0,
    )  # fmt: skip
    stock, sliding = results.cells
    assert stock["reach"] == {"at": [0, 0.5, 1], "reached": [2, 2, 2], "total": [2, 2, 2]}
    assert sliding["reach"] == {"at": [0, 0.5, 1], "reached": [0, 0, 2], "total": [2, 2, 2]}
    (table,) = grid_tables(results.cells)
    assert table.columns == ["keys", "0 %", "50 %", "100 %"]
    assert [cell.text.split(" / ")[1] for cell in table.lines[1].cells[1:]] == ["0.00", "0.00", "1.00"]
    text = results.to_markdown()
    assert "found / in reach of the mask" in text
    assert "window x layers" in text


def test_depths_of_passkeys():
    document = tasks.available(byte_tokenizer(), tasks.TaskOptions(depths=(0, 100)))["passkey_grid"].documents(
        600, 2, 0
    )
    assert [one.meta["place"] for one in document] == [0, 1]
    assert document[0].meta["depth"] == pytest.approx(0, abs=0.02)
    assert document[1].meta["depth"] > 0.9
    spread = tasks.available(byte_tokenizer())["passkey_grid"].documents(600, 8, 0)
    assert [one.meta["place"] for one in spread] == [(i + 0.5) / 8 for i in range(8)]
