"""pai against dense attention with the formula written out, on every family with image tokens."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.methods.vision.base import boost
from attnpatch.patching.edits import RowsAt
from tests import zoo
from tests.methods.vision.agreement import agrees_with_dense, attentions, last_rows, mixed_batch_equals_each_alone
from tests.methods.vision.dense import Dense
from tests.methods.vision.prompts import FAMILIES, IMAGE, batch
from tests.snapshots import generated_logits, same

ALL_LAYERS = {"alpha": 0.5, "first_layer": 0}


def pai(alpha: float):
    def change(scores, call):
        image = call.images.keys(call.key_offset, scores.shape[-1])[:, None, None]
        boosted = torch.where(image & scores.isfinite(), scores + alpha * scores.abs(), scores)
        return last_rows(boosted.softmax(-1), scores.softmax(-1), call)

    return Dense(change)


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_dense_attention(family):
    agrees_with_dense(family, pai(0.5), "pai", **ALL_LAYERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_equals_each_prompt_alone(family):
    mixed_batch_equals_each_alone(family, "pai", **ALL_LAYERS)


def test_without_a_boost_it_is_the_stock_model():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    stock = generated_logits(model, inputs)
    with attnpatch.apply(model, "pai", alpha=0.0, first_layer=0):
        assert same(generated_logits(model, inputs), stock)


def test_scores_of_either_sign_rise_and_an_unseen_image_token_stays_unseen():
    scores, by = torch.tensor([-1.0, 1.0, -torch.inf, 2.0]), torch.tensor([0.2, 0.2, 0.2, 0.0])
    expected = torch.tensor([-0.8, 1.2, -torch.inf, 2.0])
    assert torch.allclose(boost(scores, by, scores.abs(), RowsAt(0)), expected)
    seen = scores.isfinite()
    assert torch.allclose(boost(scores[seen], by[seen], scores[seen].abs(), RowsAt(0, plain=True)), expected[seen])


def test_only_image_columns_of_the_last_row_change():
    model, inputs = zoo.build("llava", attn_implementation="eager"), zoo.image_prompt("llava")
    stock = attentions(model, inputs, 0)
    with attnpatch.apply(model, "pai", **ALL_LAYERS):
        found = attentions(model, inputs, 0)
    assert torch.equal(found[:, :, :-1], stock[:, :, :-1])
    image = inputs["input_ids"][0] == IMAGE
    change = (found / stock).log()[0, :, -1]  # of the scores, up to one constant per head
    text = change[:, ~image]
    assert torch.allclose(text, text[:, :1].expand_as(text), atol=1e-5)
    assert (change[:, image] > text[:, :1]).all()


def test_layers_before_the_first_one_are_left_alone():
    model = zoo.build("gemma3")  # six layers
    with attnpatch.apply(model, "pai") as patch:
        assert {int(name.split(".")[-2]) for name in patch.site_names} == {2, 3, 4, 5}
    with pytest.raises(attnpatch.UnsupportedModelError, match="before the first layer"):
        attnpatch.apply(zoo.build("llava"), "pai")


@pytest.mark.parametrize(("side", "cut"), [("left", 10), ("right", 10), ("right", 12)])
def test_a_prompt_in_chunks_is_boosted_at_its_end_only(side, cut):
    model = zoo.build("llava")
    inputs, _ = batch("llava", side)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    end = ids.shape[1]
    with torch.no_grad(), attnpatch.apply(model, "pai", **ALL_LAYERS) as patch:
        whole = model(**inputs).logits
        with patch.prompt(end):
            first = model(**{**inputs, "input_ids": ids[:, :cut], "attention_mask": mask[:, :cut]})
            second = model(input_ids=ids[:, cut:], attention_mask=mask, past_key_values=first.past_key_values)
    joined = torch.cat([first.logits, second.logits], 1)
    assert torch.allclose(joined[mask.bool()], whole[mask.bool()], atol=1e-4)
