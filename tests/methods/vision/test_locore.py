"""locore against dense attention with the formula written out, on every family with image tokens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import attnpatch
from attnpatch.methods.vision.factors import reweighted
from attnpatch.methods.vision.known import MODELS
from attnpatch.methods.vision.locore import LocoRE, recent
from attnpatch.patching.edits import RowsAt
from tests import zoo
from tests.methods.vision.agreement import agrees_with_dense, mixed_batch_equals_each_alone
from tests.methods.vision.dense import Dense
from tests.methods.vision.prompts import FAMILIES, batch
from tests.snapshots import generated_logits, same

STRONG = {"beta": 4.0, "window": 1, "layers": ":"}  # of three generated tokens


def locore(beta: float, window: int):
    def change(scores, call):
        weights = scores.softmax(-1)
        if not call.offset:
            return weights
        key = torch.arange(call.key_offset, call.key_offset + scores.shape[-1])
        generated = (key >= call.forward.prompt_end) & (call.offset - key <= window)
        raised = scores + (1 + beta * generated).double().log()
        return torch.where(call.images.rows[:, None, None, None], raised.softmax(-1), weights)

    return Dense(change)


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_dense_attention(family):
    agrees_with_dense(family, locore(4.0, 1), "locore", **STRONG)


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen3_vl"])
def test_a_mixed_batch_equals_each_prompt_alone(family):
    mixed_batch_equals_each_alone(family, "locore", **STRONG)


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"window": -1, "beta": 4.0}])
def test_without_a_factor_it_is_the_stock_model(options):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    stock = generated_logits(model, inputs)
    with attnpatch.apply(model, "locore", layers=":", **options):
        assert same(generated_logits(model, inputs), stock)


def test_the_prompt_is_left_alone():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with torch.no_grad():
        stock = model(**inputs).logits
        with attnpatch.apply(model, "locore", **STRONG):
            assert torch.equal(model(**inputs).logits, stock)


def test_multiplied_and_renormalised_is_a_softmax_of_higher_scores():
    scores = torch.randn(2, 3, 1, 7)
    scores[0, :, :, 5:] = -torch.inf
    more = torch.tensor([0, 0, 0.15, 2, 0, 0, 5])
    found = reweighted(scores.softmax(-1), more)
    assert torch.allclose(found, (scores + (1 + more).log()).softmax(-1), atol=1e-6)
    assert torch.allclose(found.sum(-1), torch.ones(()), atol=1e-6)


def test_a_sink_keeps_its_share():
    scores = torch.randn(1, 2, 1, 5)
    sink = torch.full((1, 2, 1, 1), 0.3)
    more = torch.tensor([0, 1.0, 0, 2, 0])
    stock = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    expected = torch.cat([scores + (1 + more).log(), sink], -1).softmax(-1)[..., :-1]
    assert torch.allclose(reweighted(stock, more), expected, atol=1e-6)


def test_the_window_holds_the_token_itself_and_those_before_it():
    weights = torch.ones(1, 1, 1, 9)
    assert recent(weights, RowsAt(first=8), prompt=5, window=2).tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1]]
    assert recent(weights, RowsAt(first=8), prompt=8, window=2).tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 1]]
    # A layer that kept only the newest keys, and rows that are computed together.
    assert recent(weights[..., :4], RowsAt(first=8, key_first=5), 5, 2).tolist() == [[0, 1, 1, 1]]
    two = recent(torch.ones(1, 1, 2, 9), RowsAt(first=7), prompt=6, window=0)
    assert two.tolist() == [[0, 0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0, 1]]


def test_steps_without_a_cache_equal_steps_with_one():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with attnpatch.apply(model, "locore", **STRONG) as patch:
        cached = generated_logits(model, inputs)
        with patch.prompt(inputs["input_ids"].shape[1]):
            anew = generated_logits(model, inputs, use_cache=False)
    assert torch.equal(cached[0], anew[0])
    assert torch.allclose(cached[1], anew[1], atol=1e-4)


def test_prompts_without_an_image_are_changed_on_request():
    model = zoo.build("llava")
    _, rows = batch("llava", text_row=True)
    stock = generated_logits(model, rows[2])[1]
    with attnpatch.apply(model, "locore", text_only="stock", text_rows=True, **STRONG):
        found = generated_logits(model, rows[2])[1]
    assert torch.equal(found[0], stock[0]), "the prompt"
    assert not torch.allclose(found[1:], stock[1:], atol=1e-5)


def test_beta_is_the_papers_for_the_model():
    qwen = next(model for model in MODELS if model.name == "Qwen2-VL-7B")
    config = SimpleNamespace(**{**qwen.shape, "model_type": "qwen2_vl_text", "vocab_size": 152064})

    def beta(config, **options) -> float:
        method = LocoRE(**options)
        method.meet(SimpleNamespace(text_config=config))
        return method.beta

    assert (beta(config), beta(config, beta=0.5), beta(zoo.build("llava").config.text_config)) == (0.20, 0.5, 0.15)
