"""devils against dense attention with the formula written out, on every family with image tokens."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.methods.vision.depth import at_depth
from attnpatch.methods.vision.devils import MIDDLE, Devils
from attnpatch.methods.vision.pai import PAI
from attnpatch.patching.edits import RowsAt
from tests import zoo
from tests.methods.vision.agreement import agrees_with_dense, attentions, last_rows, mixed_batch_equals_each_alone
from tests.methods.vision.dense import Dense
from tests.methods.vision.prompts import FAMILIES, IMAGE
from tests.snapshots import generated_logits, same


def devils(alpha: float):
    def change(scores, call):
        image = call.images.keys(call.key_offset, scores.shape[-1])[:, None, None]
        mean = scores.abs().mean(1, keepdim=True)
        raised = torch.where(image & scores.isfinite(), scores + alpha * mean, scores)
        return last_rows(raised.softmax(-1), scores.softmax(-1), call)

    return Dense(change)


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_dense_attention(family):
    agrees_with_dense(family, devils(0.7), "devils", alpha=0.7, layers=":")


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen3_vl"])
def test_a_mixed_batch_equals_each_prompt_alone(family):
    mixed_batch_equals_each_alone(family, "devils", alpha=0.7, layers=":")


def test_without_a_boost_it_is_the_stock_model():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    stock = generated_logits(model, inputs)
    with attnpatch.apply(model, "devils", alpha=0.0):
        assert same(generated_logits(model, inputs), stock)


def test_with_a_single_head_it_is_pai():
    scores = torch.randn(2, 1, 3, 5)
    scores[0, 0, :2, 4] = -torch.inf
    seen = scores.isfinite()
    for at in (RowsAt(0), RowsAt(0, plain=True)):
        mine, theirs = Devils().size(scores, at), PAI().size(scores, at)
        assert torch.equal(mine[seen], theirs[seen])


def test_heads_share_the_mean_of_those_that_see_the_token():
    scores = torch.tensor([-1.0, 3.0, -torch.inf]).view(1, 3, 1, 1)
    assert Devils().size(scores, RowsAt(0)).tolist() == [[[[2.0]]]]
    assert Devils().size(scores[:, :2], RowsAt(0, plain=True)).tolist() == [[[[2.0]]]]


def test_only_image_columns_of_the_last_row_change():
    model, inputs = zoo.build("llava", attn_implementation="eager"), zoo.image_prompt("llava")
    stock = attentions(model, inputs, 0)
    with attnpatch.apply(model, "devils", layers=0):
        found = attentions(model, inputs, 0)
    assert torch.equal(found[:, :, :-1], stock[:, :, :-1])
    image = inputs["input_ids"][0] == IMAGE
    change = (found / stock).log()[0, :, -1]
    change = change - change[:, :1]  # the first token is text: its score is the same
    assert torch.allclose(change[:, ~image], torch.zeros(()), atol=1e-5)
    assert (change[:, image] > 0).all()
    assert torch.allclose(change, change[:1].expand_as(change), atol=1e-5), "every head raises a token by the same"


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(32, range(5, 18)), (40, range(6, 22)), (28, range(4, 16)), (6, range(1, 3)), (2, range(1))],
)
def test_the_layers_are_the_same_share_of_depth_everywhere(depth, expected):
    assert at_depth(MIDDLE, depth) == expected


def test_layers_are_chosen_as_in_apply():
    model = zoo.build("gemma3")

    def layers(**options) -> set[int]:
        with attnpatch.apply(model, "devils", **options) as patch:
            return {int(name.split(".")[-2]) for name in patch.site_names}

    assert layers() == {1, 2}
    assert layers(layers="3:") == layers(layers=slice(3, None)) == layers(layers=range(3, 6)) == {3, 4, 5}
    assert layers(layers=(0, 5)) == {0, 5}
    with pytest.raises(attnpatch.AttnPatchError, match=r"layer 6 does not exist: the model has layers 0\.\.5"):
        layers(layers=[6])
    with pytest.raises(attnpatch.AttnPatchError, match="a function cannot be saved"):
        layers(layers=lambda layer: layer > 3)
