"""gift against dense attention with both stages written out, on every family with image tokens."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.methods.vision.gift import GIFT
from attnpatch.patching.method import Method
from attnpatch.patching.parts import joined_rows
from tests import zoo
from tests.methods.vision import gift_cases as cases
from tests.methods.vision.agreement import attentions, mixed_batch_equals_each_alone, sharp
from tests.methods.vision.prompts import FAMILIES, batch
from tests.snapshots import generated_logits, same

IN_PASSING = {"saliency_layer": 0, "layers": (1,)}
TWICE = {"saliency_layer": 1, "layers": (0, 1)}
WORDS = {"alpha": 3.0, "tokenizer": cases.Tokenizer()}
ALL = {"alpha": 3.0, "content": "all"}


def reference(model, inputs: dict, *, saliency_layer: int, layers: tuple[int, ...], beta: float = 1.0):
    """Tokens and logits of a generation with both stages in float64."""
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad(), attnpatch.apply(model, cases.record(saliency_layer, seen)):
        model(**inputs)
    sets = cases.sets_of(inputs["input_ids"], inputs["attention_mask"])
    w = cases.factors(seen["weights"], sets, 3.0)
    with attnpatch.apply(model, cases.enhance(layers, sets, w, beta)):
        return generated_logits(model, inputs)


@pytest.mark.parametrize("where", [IN_PASSING, {**TWICE, "beta": 1.5}], ids=["in passing", "twice"])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_dense_attention(family, where):
    model, inputs = sharp(family), zoo.image_prompt(family)
    stock = generated_logits(model, inputs)[1]
    expected = reference(model, inputs, **where)
    with attnpatch.apply(model, "gift", **where, **WORDS):
        found = generated_logits(model, inputs)
    assert torch.equal(expected[0], found[0])
    assert torch.allclose(expected[1], found[1], atol=1e-4)
    assert not torch.allclose(found[1], stock, atol=1e-4)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_agrees_with_dense_attention_in_a_padded_batch(family):
    model = sharp(family)
    inputs, _ = batch(family)
    expected = reference(model, inputs, **IN_PASSING)
    with attnpatch.apply(model, "gift", **IN_PASSING, **WORDS):
        found = generated_logits(model, inputs)
    assert torch.allclose(expected[1], found[1], atol=1e-4)


@pytest.mark.parametrize("where", [IN_PASSING, TWICE], ids=["in passing", "twice"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_equals_each_prompt_alone(family, where):
    mixed_batch_equals_each_alone(family, "gift", model=sharp(family), **where, **ALL)


@pytest.mark.parametrize("where", [IN_PASSING, TWICE], ids=["in passing", "twice"])
def test_padding_on_the_right_is_no_question(where):
    model = sharp("llava")
    together, rows = batch("llava", "right")
    together["input_ids"][together["attention_mask"] == 0] = 9  # a word, did it count
    with torch.no_grad(), attnpatch.apply(model, "gift", **where, **ALL):
        found = model(**together).logits
        alone = [model(**row).logits for row in rows]
    for number, expected in enumerate(alone):
        assert torch.allclose(found[number, : expected.shape[1]], expected[0], atol=1e-4)


@pytest.mark.parametrize("where", [IN_PASSING, TWICE], ids=["in passing", "twice"])
def test_two_prompts_back_to_back_equal_each_alone(where):
    model = sharp("llava")
    _, rows = batch("llava")
    alone = []
    for row in rows:
        with attnpatch.apply(model, "gift", **where, **ALL):
            alone.append(generated_logits(model, row))
    with attnpatch.apply(model, "gift", **where, **ALL):
        assert all(same(generated_logits(model, row), one) for row, one in zip(rows, alone, strict=True))


def test_without_a_factor_it_is_the_stock_model():
    model, inputs = sharp("llava"), zoo.image_prompt("llava")
    stock = generated_logits(model, inputs)
    with attnpatch.apply(model, "gift", alpha=0.0):
        assert same(generated_logits(model, inputs), stock)
    with attnpatch.apply(model, "gift", alpha=0.0, beta=2.0, layers=(1,), content="all"):
        assert not torch.allclose(generated_logits(model, inputs)[1], stock[1], atol=1e-4)


def test_only_the_last_row_changes_at_prefill_and_rows_sum_to_one():
    model, inputs = sharp("llava"), zoo.image_prompt("llava")
    model.set_attn_implementation("eager")
    stock = attentions(model, inputs, 0)
    with attnpatch.apply(model, "gift", **TWICE, **ALL):
        found = attentions(model, inputs, 0)
    assert torch.equal(found[:, :, :-1], stock[:, :, :-1])
    assert not torch.allclose(found[:, :, -1], stock[:, :, -1], atol=1e-3)
    assert torch.allclose(found.sum(-1), torch.ones(()), atol=1e-6)


def test_a_question_without_a_content_word_is_read_as_a_whole():
    model, inputs = sharp("llava"), zoo.image_prompt("llava")
    ids = inputs["input_ids"]
    ids[:, -6:] = torch.tensor([5, 6, 7, 14, 15, 10])  # is there a it on ?
    with attnpatch.apply(model, "gift", **IN_PASSING, **WORDS):
        words = generated_logits(model, inputs)
    with attnpatch.apply(model, "gift", **IN_PASSING, **ALL):
        assert same(generated_logits(model, inputs), words)


def test_a_prompt_that_ends_with_its_image_is_left_alone_and_says_so():
    model, inputs = sharp("llava"), zoo.image_prompt("llava")
    ids = inputs["input_ids"]
    inputs["input_ids"] = torch.cat([ids[:, :1], ids[:, 5:], ids[:, 1:5]], 1)
    stock = generated_logits(model, inputs)
    with (
        attnpatch.apply(model, "gift", **IN_PASSING, **ALL),
        pytest.warns(UserWarning, match="no text between its last image and its end"),
    ):
        found = generated_logits(model, inputs)
    assert torch.allclose(found[1], stock[1], atol=1e-5)


class Splitter(Method):
    """Every row of the batch by itself."""

    name = "splitter"

    def attend(self, call, inner):
        rows = [[row] for row in range(call.query.shape[0])]
        return joined_rows([(row, inner(call.of_rows(row))) for row in rows])


@pytest.mark.parametrize("where", [IN_PASSING, TWICE], ids=["in passing", "twice"])
def test_rows_that_another_method_takes_apart_are_found_again(where):
    model = sharp("llava")
    inputs, _ = batch("llava", text_row=True)
    with attnpatch.apply(model, "gift", text_only="stock", **where, **ALL):
        whole = generated_logits(model, inputs)
    with attnpatch.apply(model, [("gift", {"text_only": "stock", **where, **ALL}), Splitter()]):
        found = generated_logits(model, inputs)
    assert torch.allclose(found[1], whole[1], atol=1e-4)


def test_a_prompt_in_pieces_is_refused():
    model, inputs = sharp("llava"), zoo.image_prompt("llava")
    ids = inputs["input_ids"]
    with torch.no_grad(), attnpatch.apply(model, "gift", **IN_PASSING, **ALL) as patch:
        with patch.prompt(ids.shape[1]), pytest.raises(attnpatch.UnsupportedCallError, match="in one piece"):
            model(input_ids=ids[:, :8], pixel_values=inputs["pixel_values"])
        first = model(**inputs)
        more = {"input_ids": ids[:, -4:], "past_key_values": first.past_key_values}
        with patch.prompt(ids.shape[1] + 4), pytest.raises(attnpatch.UnsupportedCallError, match="in one piece"):
            model(**more)


def test_embeddings_have_no_words():
    model, inputs = sharp("llava"), zoo.image_prompt("llava")
    mask = inputs["input_ids"] == cases.IMAGE
    embeds = torch.randn(1, mask.shape[1], 32)
    text = model.model.language_model
    refused = pytest.raises(attnpatch.UnsupportedCallError, match="content='all' without a tokenizer")
    with attnpatch.apply(model, "gift", **IN_PASSING, **WORDS) as patch, patch.images(mask), refused:
        text(inputs_embeds=embeds)
    with torch.no_grad():
        stock = text(inputs_embeds=embeds)[0]
        with attnpatch.apply(model, "gift", **IN_PASSING, **ALL) as patch, patch.images(mask):
            assert not torch.allclose(text(inputs_embeds=embeds)[0], stock, atol=1e-4)


def test_an_unknown_model_is_refused_with_the_command_to_run():
    model = zoo.build("llava")
    command = "attnpatch calibrate gift MODEL --images DIR"
    with pytest.raises(attnpatch.AttnPatchError, match=f"layers and saliency_layer of LlavaModel .*{command}"):
        attnpatch.apply(model, "gift", content="all")
    with pytest.raises(attnpatch.AttnPatchError, match=f"gift: layers of LlavaModel .*{command}"):
        attnpatch.apply(model, "gift", content="all", saliency_layer=0)
    with pytest.raises(attnpatch.AttnPatchError, match=r"saliency_layer=7 does not exist: .* 0\.\.1"):
        attnpatch.apply(model, "gift", content="all", saliency_layer=7, layers=1)
    with pytest.raises(
        attnpatch.AttnPatchError, match="saliency_layer=0, which cannot be patched or was not selected"
    ):
        attnpatch.apply(model, GIFT(**IN_PASSING, content="all"), layers=1)
    assert not attnpatch.patches(model)
