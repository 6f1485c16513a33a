"""pai against dense attention with the formula written out, on every family with image tokens."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from tests import zoo
from tests.methods.vision.dense import Dense
from tests.methods.vision.prompts import FAMILIES, batch
from tests.snapshots import generated_logits


def pai(alpha: float):
    def change(scores, call):
        weights = scores.softmax(-1)
        image = call.images.keys(call.key_offset, scores.shape[-1])[:, None, None]
        boosted = torch.where(image & scores.isfinite(), scores + alpha * scores.abs(), scores).softmax(-1)
        last = torch.zeros(scores.shape[2], dtype=torch.bool)
        last[-1] = True
        edited = last[None, :] & call.images.rows[:, None]
        return torch.where(edited[:, None, :, None], boosted, weights)

    return Dense(change)


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_dense_attention(family):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    with attnpatch.apply(model, pai(0.5)):
        expected = generated_logits(model, inputs)
    with attnpatch.apply(model, "pai", alpha=0.5, first_layer=0):
        found = generated_logits(model, inputs)
    assert torch.equal(expected[0], found[0])
    assert torch.allclose(expected[1], found[1], atol=1e-4)
    assert not torch.allclose(found[1], generated_logits(model, inputs)[1], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_equals_each_prompt_alone(family):
    model = zoo.build(family)
    together, rows = batch(family, text_row=True)
    stock = generated_logits(model, together)[1]
    with attnpatch.apply(model, "pai", alpha=0.5, first_layer=0, text_only="stock"):
        found = generated_logits(model, together)[1]
        alone = [generated_logits(model, row)[1] for row in rows]
    assert torch.equal(found[:, 2], stock[:, 2])
    for number, expected in enumerate(alone):
        assert torch.allclose(found[:, number : number + 1], expected, atol=1e-4), number


def test_an_unseen_image_token_stays_unseen():
    from attnpatch.methods.vision.base import boost

    scores = torch.tensor([-1.0, 1.0, -torch.inf, 2.0])
    image = torch.tensor([True, True, True, False])
    assert torch.allclose(boost(scores, image, 0.2 * scores.abs()), torch.tensor([-0.8, 1.2, -torch.inf, 2.0]))
