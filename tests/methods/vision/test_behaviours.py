"""The promises, kept by every registered method about images on every family with image tokens."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
from transformers import AutoModelForImageTextToText, DynamicCache, StaticCache

import attnpatch
from tests import zoo
from tests.methods.vision.prompts import FAMILIES, batch, needs_encoded_images
from tests.snapshots import generated_logits, same, structure

METHODS = {name: method for name, method in attnpatch.methods().items() if method.needs_images}
CASES = [
    pytest.param((name, options), id=f"{name}{number}")
    for name, method in METHODS.items()
    for number, options in enumerate(method.small_options)
]
FEW = ["llava", "gemma3", "qwen2_5_vl"]


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=FEW)
def few(request):
    return request.param


def patched(model, case, **more):
    name, options = case
    return attnpatch.apply(model, name, **{**options, **more})


def close(one: torch.Tensor, two: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(one.float(), two.float(), atol=tolerance, rtol=1e-4)


def logits(model, inputs: dict, **more) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, **more).logits


# 1. In and out


def test_removal_restores_everything(family, case):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    stock, before = generated_logits(model, inputs), None
    before = structure(model)
    patch = patched(model, case)
    changed = generated_logits(model, inputs)
    patch.remove()
    assert structure(model) == before
    assert same(stock, generated_logits(model, inputs))
    assert not close(stock[1], changed[1], 1e-6)


def test_an_exception_inside_a_forward_leaves_nothing_behind(few, case):
    model, inputs = zoo.build(few), zoo.image_prompt(few)
    stock, before = logits(model, inputs), structure(model)

    class Broken(Exception):
        pass

    def fail(*_):
        raise Broken

    last = model.model.language_model.layers[-1].mlp
    with pytest.raises(Broken), patched(model, case):  # noqa: PT012
        handle = last.register_forward_pre_hook(fail)
        try:
            model(**inputs)
        finally:
            handle.remove()
    assert structure(model) == before
    assert torch.equal(stock, logits(model, inputs))


def test_disabled_is_stock_for_a_while(few, case):
    model, inputs = zoo.build(few), zoo.image_prompt(few)
    stock = logits(model, inputs)
    patch = patched(model, case)
    changed = logits(model, inputs)
    with patch.disabled():
        assert torch.equal(stock, logits(model, inputs))
    assert torch.equal(changed, logits(model, inputs))


@pytest.mark.parametrize("family", ["llama", "mllama"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_models_without_image_tokens_are_refused(family, name):
    model = zoo.build(family)
    before = structure(model)
    with pytest.raises(attnpatch.UnsupportedModelError, match="image token"):
        attnpatch.apply(model, name, **METHODS[name].small_options[0])
    assert structure(model) == before


# 2. Neutral is stock


@pytest.mark.parametrize("name", sorted(METHODS))
def test_neutral_setting_is_stock(family, name):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    stock = generated_logits(model, inputs)
    with attnpatch.apply(model, name, **METHODS[name].neutral_options):
        assert same(stock, generated_logits(model, inputs))


# 4. Rows are independent


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_equals_each_prompt_alone(family, case, side):
    model = zoo.build(family)
    together, rows = batch(family, side, text_row=True)
    stock = logits(model, together)
    with patched(model, case, text_only="stock"):
        found = logits(model, together)
        alone = [logits(model, row) for row in rows]
    real = together["attention_mask"].bool()
    assert torch.equal(found[2][real[2]], stock[2][real[2]])
    for number, expected in enumerate(alone):
        assert close(found[number][real[number]], expected[0]), number


def test_a_mixed_batch_generates_what_each_prompt_does(family, case):
    model = zoo.build(family)
    together, rows = batch(family, text_row=True)
    stock = generated_logits(model, together)[1]
    with patched(model, case, text_only="stock"):
        found = generated_logits(model, together)[1]
        alone = [generated_logits(model, row)[1] for row in rows]
    assert torch.equal(found[:, 2], stock[:, 2])
    for number, expected in enumerate(alone):
        assert close(found[:, number : number + 1], expected), number


@pytest.mark.parametrize("how", ["no cache", "static", "chunks"])
def test_other_ways_to_run_a_prompt_agree(few, case, how):
    model, inputs = zoo.build(few), zoo.image_prompt(few)
    if how == "chunks":
        needs_encoded_images(model)
    length = inputs["input_ids"].shape[1]
    options = {
        "no cache": {"use_cache": False},
        "static": {"cache_implementation": "static", "disable_compile": True},
        "chunks": {"prefill_chunk_size": 6},
    }[how]
    with patched(model, case) as patch, patch.prompt(length):
        tokens, expected = generated_logits(model, inputs)
        try:
            again, found = generated_logits(model, inputs, **options)
        except (attnpatch.UnsupportedCallError, ValueError, TypeError) as refusal:
            # Who reads the whole prompt refuses a piece of it; transformers cannot cut every family's images.
            if how != "chunks" or not str(refusal):
                raise
            return
    assert torch.equal(tokens, again)
    assert close(expected, found)


def test_beams_agree_with_and_without_a_cache(few, case):
    model, inputs = zoo.build(few), zoo.image_prompt(few)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 3, "pad_token_id": 0}
    with patched(model, case) as patch, patch.prompt(inputs["input_ids"].shape[1]), torch.no_grad():
        cached = model.generate(**inputs, **options)
        uncached = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached, uncached)


def test_a_static_cache_can_be_used_twice(case):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with patched(model, case):
        _, expected = generated_logits(model, inputs)
        cache = StaticCache(model.config.get_text_config(), max_cache_len=24)
        generated_logits(model, batch("llava")[1][1], past_key_values=cache)
        cache.reset()
        _, found = generated_logits(model, inputs, past_key_values=cache)
    assert close(expected, found)


# 5. Nothing outlives its sequence


def test_prompts_back_to_back_equal_each_alone(family, case):
    model, prompts = zoo.build(family), batch(family)[1]
    alone = []
    for prompt in prompts:
        with patched(model, case):
            alone.append(generated_logits(model, prompt))
    with patched(model, case):
        together = [generated_logits(model, prompt) for prompt in prompts]
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_state_dies_with_its_cache(case):
    model = zoo.build("llava")
    with patched(model, case) as patch:
        cache = DynamicCache(config=model.config.get_text_config())
        logits(model, zoo.image_prompt("llava"), past_key_values=cache)
        states = patch._installation.states
        assert len(states) == 1
        del cache
        gc.collect()
        assert len(states) == 0


# 6. Scoring: decisions are made on the prompt, never on what is scored


def test_a_scored_continuation_changes_nothing_before_it(few, case):
    model, inputs = zoo.build(few), zoo.image_prompt(few)
    length = inputs["input_ids"].shape[1]
    longer = {}
    for name, value in inputs.items():
        fill = 1 if name == "attention_mask" else 0
        by_token = value.shape[:2] == (1, length) and not value.is_floating_point()
        longer[name] = torch.nn.functional.pad(value, (0, 3), value=fill) if by_token else value
    longer["input_ids"][0, length:] = torch.tensor([31, 32, 33])
    with patched(model, case) as patch:
        prompt = logits(model, inputs)
        with patch.prompt(length):
            scored = logits(model, longer)
        cache = DynamicCache(config=model.config.get_text_config())
        logits(model, inputs, past_key_values=cache)
        stepped = [
            logits(model, {"input_ids": longer["input_ids"][:, at : at + 1]}, past_key_values=cache)
            for at in range(length, length + 3)
        ]
    assert close(prompt, scored[:, :length])
    assert close(torch.cat(stepped, 1), scored[:, length:])


# Bad input, before anything runs


def test_a_batch_without_any_image(few, case):
    model = zoo.build(few)
    text = batch(few, text_row=True)[1][2]
    stock = generated_logits(model, text)
    with (
        patched(model, case),
        pytest.raises(attnpatch.UnsupportedCallError, match=r"holds an image.*text_only='stock'"),
    ):
        model.generate(**text, max_new_tokens=1)
    with patched(model, case, text_only="stock"):
        assert same(stock, generated_logits(model, text))


def test_tokens_of_another_processor(case):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == zoo.IMAGE, 99)
    with patched(model, case), pytest.raises(attnpatch.UnsupportedCallError, match="processor of another model"):
        model(**inputs)


def without_pixels(inputs: dict) -> dict:
    return {name: value for name, value in inputs.items() if name != "pixel_values"}


def test_image_tokens_without_their_pixels(family):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    bare = {**without_pixels(inputs), "image_grid_thw": None}
    count = int((inputs["input_ids"] == zoo.IMAGE).sum())
    message = rf"holds {count} image tokens \(id 100.* no pixels .*pixel_values.*generate\(\*\*inputs\)"
    stock = logits(model, bare)
    with attnpatch.apply(model, "pai", alpha=3.0, first_layer=0, text_only="stock") as patch:
        with pytest.raises(attnpatch.UnsupportedCallError, match=message):
            model.generate(**bare, max_new_tokens=1)
        with pytest.raises(attnpatch.UnsupportedCallError, match=message):
            logits(model, bare)
        with patch.disabled():
            assert torch.equal(stock, logits(model, bare))


def test_every_method_wants_the_pixels_of_image_tokens(case):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with patched(model, case), pytest.raises(attnpatch.UnsupportedCallError, match="no pixels came with it"):
        model(**without_pixels(inputs))


def test_pixels_under_another_name_are_not_missed():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with attnpatch.apply(model, "pai", alpha=3.0, first_layer=0):
        expected = logits(model, without_pixels(inputs), image_hidden_states=torch.zeros(1, 4, 32))
    with attnpatch.apply(model, "pai", alpha=3.0, first_layer=0) as patch, patch.images(inputs["input_ids"] == 100):
        assert torch.equal(expected, logits(model, without_pixels(inputs)))


def test_behind_a_cache_nobody_knows_where_the_pixels_went():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    length = inputs["input_ids"].shape[1]
    more = torch.tensor([[11, zoo.IMAGE, zoo.IMAGE, 12, 13]])
    with attnpatch.apply(model, "pai", alpha=3.0, first_layer=0) as patch, patch.prompt(length + 5):
        cache = DynamicCache(config=model.config.get_text_config())
        logits(model, inputs, past_key_values=cache)
        logits(model, {"input_ids": more}, past_key_values=cache)
    assert cache.get_seq_length() == length + 5


def test_embeddings_that_already_hold_the_image(case):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    seen = {}
    base = model.model.language_model
    handle = base.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    logits(model, inputs)
    handle.remove()
    mixed = {"inputs_embeds": seen["inputs_embeds"], "attention_mask": inputs["attention_mask"]}
    with patched(model, case) as patch:
        expected = logits(model, inputs)
        with pytest.raises(attnpatch.UnsupportedCallError, match=r"patch\.images"):
            logits(model, mixed)
        try:
            with patch.images(inputs["input_ids"] == zoo.IMAGE):
                found = logits(model, mixed)
        except attnpatch.UnsupportedCallError as refusal:  # it needs more than where the images stand
            if "vision" not in str(refusal) and "input_ids" not in str(refusal):
                raise
            return
    assert close(expected, found)


# Copies


def test_a_deep_copy_is_patched_and_independent(few, case):
    model, inputs = zoo.build(few), zoo.image_prompt(few)
    stock = logits(model, inputs)
    patch = patched(model, case)
    changed = logits(model, inputs)
    twin = copy.deepcopy(model)
    patch.remove()
    assert torch.equal(stock, logits(model, inputs))
    assert torch.equal(changed, logits(twin, inputs))
    for one in attnpatch.patches(twin):
        one.remove()
    assert torch.equal(stock, logits(twin, inputs))


def test_a_pickled_model_comes_back_patched(case):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    patched(model, case)
    twin = pickle.loads(pickle.dumps(model))  # before any run: transformers' own hooks cannot be pickled
    assert torch.equal(logits(model, inputs), logits(twin, inputs))


def test_saved_files_know_nothing_of_the_patch(case, tmp_path):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    stock = logits(model, inputs)
    with patched(model, case):
        model.save_pretrained(tmp_path)
    assert "attnpatch" not in (tmp_path / "config.json").read_text()
    assert torch.equal(stock, logits(AutoModelForImageTextToText.from_pretrained(tmp_path).eval(), inputs))


def test_eager_and_sdpa_agree(family, case):
    inputs, found = zoo.image_prompt(family), []
    for implementation in ("sdpa", "eager"):
        model = zoo.build(family, attn_implementation=implementation)
        with patched(model, case):
            found.append(generated_logits(model, inputs)[1])
    assert close(*found)


def test_it_works_on_top_of_a_method_that_replaces_the_keys(case):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with patched(model, case):
        alone = generated_logits(model, inputs)[1]
    with attnpatch.apply(model, "sliding", window=1 << 20, sink=0), patched(model, case):
        assert close(alone, generated_logits(model, inputs)[1])
    with attnpatch.apply(model, "sliding", window=8, sink=1):
        window = generated_logits(model, inputs)[1]
        with patched(model, case):
            both = generated_logits(model, inputs)[1]
    assert not close(both, window, 1e-6)
    assert not close(both, alone, 1e-6)
