"""carve: its steps by hand, what is read of the model against eager attention, and answers that must not change."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

import attnpatch
from attnpatch.sandbox.vision.processor import build_processor
from attnpatch.vision import carve, look
from attnpatch.vision.capture import Capture, captured
from attnpatch.vision.carving import contrast, weighted
from attnpatch.vision.prompts import prompt_inputs
from attnpatch.vision.refine import box_around, largest_parts, magnified, refined, top_mask
from tests import zoo
from tests.methods.vision.prompts import FAMILIES
from tests.snapshots import generated_logits, same, structure
from tests.vision.small import QUESTION, picture, processor, used_model

SMALL = {"suffix": "", "general": "Describe the image .", "max_new_tokens": 4}


@pytest.fixture(scope="module")
def model():
    return used_model()


def answer(model, shown, question=QUESTION, tokens=4) -> str:
    inputs = prompt_inputs(model, processor(), shown, question)
    with torch.no_grad():
        made = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return processor().tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


# Checks 1 and 2: what is captured


@pytest.mark.parametrize("family", FAMILIES)
def test_capture_changes_no_bit(family):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    stock, before = generated_logits(model, inputs), structure(model)
    layers = range(6 if family == "gemma3" else 2)
    found, seen = captured(model, layers, lambda: generated_logits(model, inputs))
    assert same(stock, found)
    assert structure(model) == before
    count = int((inputs["input_ids"] == zoo.IMAGE).sum())
    assert seen.shape == (len(layers), 4, 4, count)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_captured_is_eager_attention(family):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    layers = range(6 if family == "gemma3" else 2)
    _, seen = captured(model, layers, lambda: generated_logits(model, inputs))
    eager = AutoModelForImageTextToText.from_config(model.config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        out = eager.generate(
            **inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_attentions=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    image = inputs["input_ids"][0] == zoo.IMAGE
    for step, by_layer in enumerate(out.attentions):
        for layer in layers:
            row = by_layer[layer][0, :, -1]
            full = torch.zeros(row.shape[0], inputs["input_ids"].shape[1] + step)
            full[:, full.shape[1] - row.shape[1] :] = row  # a window has dropped the first keys
            expected = full[:, : len(image)][:, image]
            assert torch.allclose(seen[layer, step].mean(0), expected.mean(0), atol=1e-5), (layer, step)
            assert torch.allclose(seen[layer, step], expected, atol=1e-5)


def test_capture_sees_what_other_methods_make_of_the_row(model):
    inputs = prompt_inputs(model, processor(), picture(), QUESTION)

    def run():
        with torch.no_grad():
            return model.generate(**inputs, max_new_tokens=2, do_sample=False)

    _, stock = captured(model, [1, 2], run)
    with attnpatch.apply(model, "pai", alpha=2.0, first_layer=0):
        made, raised = captured(model, [1, 2], run)
        assert torch.equal(made, run())
    assert (raised[:, 0].sum(-1) > stock[:, 0].sum(-1)).all()


def test_a_layer_that_cannot_be_captured(model):
    before = structure(model)
    with pytest.raises(attnpatch.UnsupportedModelError, match="attention of layer 9 of LlamaModel cannot be read"):
        attnpatch.apply(model, Capture([1, 9]))
    assert structure(model) == before


# Checks 3 and 8: the contrast


def test_the_same_question_twice_has_no_contrast(model):
    found = carve(model, processor(), picture(), QUESTION, **{**SMALL, "general": QUESTION}, layers=(0, 3))
    assert torch.allclose(found.scores, torch.full_like(found.scores, 2.0), atol=1e-4)  # 1 in each of two layers


def test_contrast_by_hand():
    ours, general = torch.rand(3, 4, 2, 5), torch.rand(3, 2, 2, 5)
    found = contrast(ours, general, 0.5)
    expected = torch.zeros(2, 5)
    for layer in range(3):
        for step in range(2):
            expected[step] += ours[layer, step].mean(0) / (general[layer, step].mean(0) + 0.5)
    assert torch.allclose(found, expected)


def test_steps_weigh_one_two_three():
    scores = torch.stack([torch.full((2, 2), value) for value in (100.0, 10.0, 1.0)])
    assert weighted(scores, "all").tolist() == [[123.0, 123.0]] * 2
    assert weighted(scores, "first")[0, 0] == 100
    assert weighted(scores, "last")[0, 0] == 1


# Checks 4, 5 and 6: the part of the picture


def test_the_part_with_the_larger_sum_is_kept():
    values = np.zeros((20, 30))
    values[2:5, 2:5] = 5.0  # 45
    values[10:16, 10:16] = 2.0  # 72
    values[16, 16] = 2.0  # touches at a corner
    mask = largest_parts(values > 0, values, 1)
    assert box_around(mask) == (10, 10, 17, 17)
    assert int(mask.sum()) == 37
    assert box_around(largest_parts(values > 0, values, 2)) == (2, 2, 17, 17)
    assert largest_parts(values > 0, values, None).sum() == (values > 0).sum()


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_the_top_fraction_of_pixels(fraction):
    values = np.random.default_rng(0).random((60, 100))
    mask = top_mask(values, fraction)
    assert abs(int(mask.sum()) - fraction * 6000) <= 1
    assert values[mask].min() >= (values[~mask].max() if fraction < 1 else 0)


def test_pixels_that_no_token_sees_are_not_part_of_the_fraction():
    values = np.full((10, 100), -np.inf)
    values[:, 40:50] = np.arange(100).reshape(10, 10)
    assert int(top_mask(values, 0.2).sum()) == 20
    assert top_mask(values, 1.0).all()


def test_scale_and_aspect():
    assert magnified((100, 50, 200, 150), (400, 200), 2.0) == (400, 400)  # max(4, 2) = 4
    assert magnified((0, 0, 400, 200), (400, 200), 2.0) == (400, 200)
    assert magnified((0, 0, 10, 100), (400, 200), 2.0) == (80, 800)  # 40 times would be 4,000 pixels high
    shown, mask = picture(400, 200), np.zeros((200, 400), dtype=bool)
    mask[50:150, 100:150] = True
    part = refined(shown, mask, (100, 50, 200, 150), 2.0)
    assert part.size == (400, 400)
    assert not np.asarray(part)[:, 220:].any()
    assert np.asarray(part)[:, :180].mean() > 50


# The whole


def test_a_refined_picture_is_looked_at(model):
    shown = picture(60, 48)
    found = carve(model, processor(), shown, QUESTION, **SMALL)
    left, top, right, bottom = found.box
    assert 0 <= left < right <= 60
    assert (right - left, bottom - top) != (60, 48)
    assert found.picture.size == magnified(found.box, (60, 48), 2.0)
    assert found.map.shape == (6, 6)
    assert found.scores.shape[1:] == (6, 6)
    weights = torch.arange(1, len(found.scores) + 1)[:, None, None]
    assert torch.allclose(found.map, (weights * found.scores).sum(0))
    assert found.first_answer == answer(model, shown)
    assert found.answer == answer(model, found.picture)
    both = carve(model, processor(), shown, QUESTION, images="both", **SMALL)
    assert both.answer == answer(model, [shown, found.picture])


def test_neutral_is_stock(model):
    shown, before = picture(), structure(model)
    found = carve(model, processor(), shown, QUESTION, top_fraction=1.0, keep=None, **SMALL)
    assert found.box == (0, 0, 48, 48)
    assert np.array_equal(np.asarray(found.picture), np.asarray(shown))
    assert found.answer == found.first_answer == answer(model, shown)
    assert structure(model) == before


def test_capture_only_answers_as_ever(model, tmp_path):
    file = tmp_path / "one.png"
    picture().save(file)
    found = carve(model, processor(), file, QUESTION, capture_only=True, **SMALL)
    assert found.answer == found.first_answer == answer(model, picture())
    assert found.picture.size == (48, 48)
    assert found.box != (0, 0, 48, 48)


def test_layers_are_the_paper_s_where_the_model_has_them():
    from attnpatch.vision.carving import CarveConfig, _layers

    assert _layers(CarveConfig(), 28) == _layers(CarveConfig(), 40) == [20, 21, 22, 23, 24, 25]
    assert _layers(CarveConfig(), 4) == [2]
    assert _layers(CarveConfig(layers="-2:"), 4) == [2, 3]


@pytest.mark.parametrize(
    ("image", "question", "options", "message"),
    [
        ("nothing.png", "What ?", {}, "image 'nothing.png' does not exist"),
        (__file__, "What ?", {}, "test_carve.py' cannot be read"),
        ([picture(), picture()], "What ?", {}, "one picture is looked at, got a list of 2"),
        (picture(), "  ", {}, "question is empty"),
        (picture(), "What ?", {"top_fracton": 0.2}, "Did you mean 'top_fraction'"),
        (picture(), "What ?", {"top_fraction": 0.0}, "top_fraction=0.0"),
        (picture(), "What ?", {"keep": 0}, "keep=0"),
        (picture(), "What ?", {"steps": "second"}, "steps='second'"),
        (picture(), "What ?", {"layers": "9"}, "layer 9 does not exist"),
    ],
)
def test_bad_input(model, image, question, options, message):
    with pytest.raises(attnpatch.AttnPatchError, match=message):
        carve(model, processor(), image, question, **{**SMALL, **options})


def test_a_tokenizer_in_place_of_the_processor(model):
    with pytest.raises(TypeError, match=r"processor must be .* AutoProcessor.from_pretrained"):
        carve(model, processor().tokenizer, picture(), QUESTION)


def made_for_another(what: str):
    """A processor that is wrong about the small model: about its tower, or about its own tokenizer."""
    wrong = build_processor()
    if what == "patches":
        wrong.patch_size = 16
    elif what == "size":
        wrong.image_processor.size = wrong.image_processor.crop_size = {"height": 96, "width": 96}
    else:
        wrong.image_token_id = 34  # a word that no prompt here holds
    return wrong


@pytest.mark.parametrize("run", [partial(carve, **SMALL), look])
@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("patches", "Image features and image tokens do not match, tokens: 9, features: 2304"),
        ("size", r"Input image size \(96\*96\) doesn't match model \(\d+\*\d+\)"),
        ("tokenizer", r"Mismatch in `image` token count .* Got ids=\[0\] and text=\[36\]"),
    ],
)
def test_the_processor_of_another_model(model, run, what, found):
    before = structure(model)
    message = rf"does not fit LlavaFor.*: {found}\. The processor may belong to another model: .*from_pretrained"
    with pytest.raises(attnpatch.AttnPatchError, match=message) as refusal:
        run(model, made_for_another(what), picture(), QUESTION)
    assert type(refusal.value.__cause__) is ValueError
    assert structure(model) == before


@pytest.mark.parametrize("run", [partial(carve, **SMALL), look])
@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_5_vl", "llava_next", "idefics3"])
def test_the_processor_of_a_model_with_another_image_token(family, run):
    message = "none of its tokens has the model's image_token_id, 100. The processor may belong to another model"
    with pytest.raises(attnpatch.AttnPatchError, match=message):
        run(zoo.build(family), processor(), picture(), QUESTION)


@pytest.mark.parametrize("run", [partial(carve, **SMALL), look])
@pytest.mark.parametrize("error", [ValueError("Image features are odd"), attnpatch.AttnPatchError("image tokens")])
def test_other_errors_are_told_as_they_are(model, run, error, monkeypatch):
    def fail(**_):
        raise error

    monkeypatch.setattr(model, "generate", fail)
    with pytest.raises(ValueError, match=str(error)) as found:
        run(model, processor(), picture(), QUESTION)
    assert found.value is error


def test_neither_picture_nor_file(model):
    with pytest.raises(TypeError, match="must be a PIL image or a file, got int"):
        carve(model, processor(), 3, QUESTION)
