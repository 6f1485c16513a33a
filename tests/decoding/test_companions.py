"""Companions by name: their options, and what they refuse before anything runs."""

from __future__ import annotations

import pytest
import torch

from attnpatch import AttnPatchError, UnsupportedCallError, UnsupportedModelError, decoding
from tests import zoo
from tests.decoding.cases import FULL, STEPS
from tests.methods.vision.prompts import batch


@pytest.mark.parametrize("name", decoding.NAMES)
def test_every_companion_says_what_it_is(name):
    companion = decoding.companion_class(name)
    assert companion.name == name
    for fact in (companion.summary, companion.paper, companion.neutral, companion.limits, companion.evidence):
        assert fact
    assert all(field.description for field in companion.Config.model_fields.values())
    for options in (companion.neutral_options, *companion.small_options):
        assert repr(decoding.build(name, **options)).startswith(f"{name}(")


def test_names():
    assert decoding.names() == decoding.NAMES == tuple(decoding.companions())
    with pytest.raises(AttnPatchError, match=r"unknown companion 'vdc'. Did you mean 'vcd'\?"):
        decoding.build("vdc")
    with pytest.raises(AttnPatchError, match=r"'pai' is no companion .* attnpatch.apply\(model, 'pai'\)"):
        decoding.build("pai")
    with pytest.raises(TypeError, match="companion must be a name"):
        decoding.build(3)
    built = decoding.build("vcd", alpha=2.0)
    assert decoding.build(built) is built
    with pytest.raises(AttnPatchError, match="beside a finished vcd"):
        decoding.build(built, alpha=1.0)


def test_options():
    with pytest.raises(AttnPatchError, match=r"companion 'vcd': unknown option 'alhpa'. Did you mean 'alpha'\?"):
        decoding.build("vcd", alhpa=1.0)
    with pytest.raises(AttnPatchError, match=r"companion 'guidance': option gamma=0"):
        decoding.build("guidance", gamma=0.0)
    with pytest.raises(AttnPatchError, match=r"option prefix_ids must be given: .*disturb"):
        decoding.build("icd")
    with pytest.raises(AttnPatchError, match="noise_step"):
        decoding.build("vcd", noise_step=1001)


def test_the_one_liner_knows_whose_option_is_whose():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with pytest.raises(AttnPatchError, match=r"unknown option 'max_new_token'.*Did you mean 'max_new_tokens'\?"):
        decoding.generate(model, inputs, "vcd", max_new_token=4)
    with pytest.raises(AttnPatchError, match=r"unknown option 'alhpa'.*Did you mean 'alpha'\?"):
        decoding.generate(model, inputs, "vcd", alhpa=4.0)
    with pytest.raises(TypeError, match="inputs must be what the model's processor returns, got str"):
        decoding.generate(model, "describe", "vcd")
    expected = decoding.generate(model, inputs, "vcd", alpha=4.0, **STEPS)
    assert torch.equal(decoding.build("vcd", alpha=4.0).generate(model, inputs, **STEPS), expected)
    processor = decoding.build("vcd", alpha=4.0).processor(model, inputs)
    assert torch.equal(model.generate(**inputs, **STEPS, logits_processor=[processor]), expected)


@pytest.mark.parametrize("name", ["guidance", "vcd"])
def test_models_without_image_tokens_are_refused(name):
    with pytest.raises(UnsupportedModelError, match="has no image tokens"):
        decoding.build(name).processor(zoo.build("llama"), zoo.text_batch())
    with pytest.raises(UnsupportedModelError, match="cross-attention"):
        decoding.build(name).processor(zoo.build("mllama"), zoo.image_prompt("mllama"))
    with pytest.raises(TypeError, match="model must be"):
        decoding.build(name).processor("llava", {})


def test_inputs_that_cannot_be_read():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    companion = decoding.build("guidance")
    with pytest.raises(AttnPatchError, match="input_ids"):
        companion.processor(model, {"pixel_values": inputs["pixel_values"]})
    with pytest.raises(UnsupportedCallError, match="past_key_values"):
        companion.processor(model, {**inputs, "past_key_values": object()})
    with pytest.raises(UnsupportedCallError, match="no token of the prompt stands for one"):
        companion.processor(model, {**inputs, "input_ids": torch.tensor([[1, 5, 6, 7]])})
    together, _ = batch("llava")
    del together["attention_mask"]
    with pytest.raises(AttnPatchError, match="no attention_mask"):
        companion.processor(model, together)
    only = {**inputs, "input_ids": torch.full((1, 4), zoo.IMAGE), "attention_mask": torch.ones(1, 4)}
    with pytest.raises(UnsupportedCallError, match="nothing but images"):
        companion.processor(model, only)
    with pytest.raises(AttnPatchError, match=r"prefix_ids.*names \[500\]"):
        decoding.build("icd", prefix_ids=[500]).processor(model, inputs)


ABOUT_IMAGES = {"guidance": {}, "vcd": {}, "icd": {"prefix_ids": [11, 12]}}


@pytest.mark.parametrize("name", ABOUT_IMAGES)
def test_text_alone_is_refused_or_left_as_it_is(name):
    model, text = zoo.build("llava"), zoo.text_batch()
    stock = model.generate(**text, **STEPS, **FULL)
    message = rf"companion '{name}' .*generate\(model, inputs, '{name}', text_only='stock'\)"
    with pytest.raises(UnsupportedCallError, match=rf"no prompt of this batch holds an image, and {message}"):
        decoding.generate(model, text, name, **ABOUT_IMAGES[name], **STEPS)
    with pytest.raises(UnsupportedCallError, match="text_only='stock'"):
        decoding.build(name, **ABOUT_IMAGES[name]).processor(model, text)
    found = decoding.generate(model, text, name, text_only="stock", **ABOUT_IMAGES[name], **STEPS, **FULL)
    assert torch.equal(found.sequences, stock.sequences)
    assert torch.equal(torch.stack(found.scores), torch.stack(stock.scores))
    with pytest.raises(AttnPatchError, match="option text_only='stok'"):
        decoding.build(name, text_only="stok", **ABOUT_IMAGES[name])


def test_sgrs_is_not_about_images_and_asks_for_none():
    model, text = zoo.build("llava"), {name: value[:1] for name, value in zoo.text_batch().items()}
    assert "text_only" not in decoding.companion_class("sgrs").Config.model_fields
    for include_prompt in (False, True):
        sampled = {**STEPS, "do_sample": True, "layers": [0, 1], "include_prompt": include_prompt}
        length = text["input_ids"].shape[1]
        assert decoding.generate(model, text, "sgrs", **sampled).shape == (1, length + 4)


@pytest.mark.parametrize("name", ABOUT_IMAGES)
def test_image_tokens_without_their_pixels(name):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    del inputs["pixel_values"]
    for text_only in ("error", "stock"):
        with pytest.raises(UnsupportedCallError, match=r"holds 4 image tokens \(id 100\), but no pixels came with it"):
            decoding.generate(model, inputs, name, text_only=text_only, **ABOUT_IMAGES[name], **STEPS)


def test_a_processor_serves_one_call_and_its_own_prompts():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    processor = decoding.build("guidance").processor(model, inputs)
    model.generate(**inputs, **STEPS, logits_processor=[processor])
    with pytest.raises(UnsupportedCallError, match="serves one generate"):
        model.generate(**inputs, **STEPS, logits_processor=[processor])
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][0, -1] = 33
    with pytest.raises(UnsupportedCallError, match="Make one for each call"):
        model.generate(**other, **STEPS, logits_processor=[decoding.build("guidance").processor(model, inputs)])
    processor = decoding.build("guidance").processor(model, inputs)
    twice = inputs["input_ids"].repeat(2, 1)
    processor(twice, torch.zeros(2, 128))
    with pytest.raises(UnsupportedCallError, match="do not continue those"):
        processor(torch.full((2, twice.shape[1] + 1), 9), torch.zeros(2, 128))


def test_a_loop_of_its_own_is_no_processor():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with pytest.raises(AttnPatchError, match="no logits processor"):
        decoding.build("sgrs").processor(model, inputs)
    with pytest.raises(AttnPatchError, match="generates with top_k=5"):
        decoding.generate(model, inputs, "sgrs", top_k=7)
