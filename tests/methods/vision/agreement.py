"""What the tests of several vision methods ask alike: dense attention agrees, batches equal their prompts alone."""

from __future__ import annotations

from typing import Any

import torch

import attnpatch
from tests import zoo
from tests.methods.vision.dense import Dense
from tests.methods.vision.prompts import batch
from tests.snapshots import generated_logits


def last_rows(changed: torch.Tensor, stock: torch.Tensor, call) -> torch.Tensor:
    """`changed` weights `[B, H, Q, K]` in the last row of prompts with an image, `stock` elsewhere."""
    last = torch.zeros(stock.shape[2], dtype=torch.bool)
    last[-1] = True
    edited = last[None, :] & call.images.rows[:, None]
    return torch.where(edited[:, None, :, None], changed, stock)


def sharp(family: str):
    """The tiny model of a family with scores far apart: untrained attention is almost the same everywhere."""
    model = zoo.build(family)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "vision" not in name and "visual" not in name and ("q_proj" in name or "k_proj" in name):
                weight.mul_(15)
    return model


def agrees_with_dense(family: str, dense: Dense, name: str, *, model=None, **options: Any) -> None:
    """Generated tokens and logits are those of dense attention, and not those of the stock model."""
    model, inputs = model or zoo.build(family), zoo.image_prompt(family)
    stock = generated_logits(model, inputs)[1]
    with attnpatch.apply(model, dense):
        expected = generated_logits(model, inputs)
    with attnpatch.apply(model, name, **options):
        found = generated_logits(model, inputs)
    assert torch.equal(expected[0], found[0])
    assert torch.allclose(expected[1], found[1], atol=1e-4)
    assert not torch.allclose(found[1], stock, atol=1e-5)


def mixed_batch_equals_each_alone(family: str, name: str, *, model=None, **options: Any) -> None:
    """Two prompts with images and one without, in one batch; the one without is stock, bit for bit."""
    model = model or zoo.build(family)
    together, rows = batch(family, text_row=True)
    stock = generated_logits(model, together)[1]
    with attnpatch.apply(model, name, text_only="stock", **options):
        found = generated_logits(model, together)[1]
        alone = [generated_logits(model, row)[1] for row in rows]
    assert torch.equal(found[:, 2], stock[:, 2])
    for number, expected in enumerate(alone):
        assert torch.allclose(found[:, number : number + 1], expected, atol=1e-4), number
    assert not torch.allclose(found[:, :2], stock[:, :2], atol=1e-5)


def attentions(model, inputs: dict, layer: int) -> torch.Tensor:
    """Weights `[B, H, Q, K]` of one layer; the model must run eager attention."""
    with torch.no_grad():
        return model(**inputs, output_attentions=True).attentions[layer]
