"""The second branch: its steps, its positions, and that neither the first branch nor patches notice it."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch import decoding
from attnpatch.decoding.prompts import read_prompts
from attnpatch.patching.beside import beside
from tests import zoo
from tests.decoding.cases import FAMILIES, FULL, STEPS, logits_along, text_of, written
from tests.methods.vision.prompts import batch, needs_encoded_images


def recorded(model, run) -> list[torch.Tensor]:
    """The position_ids `[..., B, Q]` of every forward of the whole model, in order."""
    found = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(kwargs["position_ids"]), with_kwargs=True
    )
    run()
    hook.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_branch_without_image_takes_the_same_steps_and_starts_without_the_image(family):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    alone = recorded(model, lambda: model.generate(**inputs, **STEPS))
    text = recorded(model, lambda: model.generate(**text_of(inputs), **STEPS))
    both = recorded(model, lambda: decoding.generate(model, inputs, "guidance", **STEPS))
    assert len(both) == 2 * len(alone) == 2 * STEPS["max_new_tokens"]
    for first, second, mine, other in zip(alone, text, both[::2], both[1::2], strict=True):
        assert torch.equal(mine, first)
        assert torch.equal(other, second)
    assert both[1].shape[-1] == text_of(inputs)["input_ids"].shape[1]


@pytest.mark.parametrize("name", ["guidance", "vcd"])
def test_what_the_model_remembers_is_the_first_branchs(name):
    model, inputs = zoo.build("qwen2_5_vl"), zoo.image_prompt("qwen2_5_vl")
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == zoo.IMAGE).long()
    model.generate(**inputs, **STEPS)
    stock = model.model.rope_deltas.clone()
    assert bool(stock.any())
    out = decoding.generate(model, inputs, name, **STEPS, **FULL)
    assert torch.equal(model.model.rope_deltas, stock)
    along = logits_along(model, inputs, written(out, inputs)[0])
    assert torch.allclose(torch.cat(out.logits), along, atol=1e-5)


def test_images_are_encoded_once_per_branch_that_sees_them():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    calls = []
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    for name, expected in (("guidance", 1), ("vcd", 2)):
        calls.clear()
        decoding.generate(model, inputs, name, **STEPS)
        assert len(calls) == expected


def test_encoded_images_are_enough_for_guidance_and_not_for_vcd():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    needs_encoded_images(model)
    expected = decoding.generate(model, inputs, "guidance", gamma=3.0, **STEPS)
    with torch.no_grad():
        images = model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    inputs["mm_encoder_outputs"] = {"image": images}
    assert torch.equal(decoding.generate(model, inputs, "guidance", gamma=3.0, **STEPS), expected)
    with pytest.raises(attnpatch.AttnPatchError, match="pixel_values"):
        decoding.generate(model, inputs, "vcd", **STEPS)


def test_prompts_back_to_back_equal_each_alone():
    model = zoo.build("gemma3")
    _, rows = batch("gemma3")
    companion = decoding.build("vcd", alpha=4.0)
    alone = [companion.generate(zoo.build("gemma3"), row, **STEPS) for row in rows]
    for row, expected in [*zip(rows, alone, strict=True)] * 2:
        assert torch.equal(companion.generate(model, row, **STEPS), expected)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_a_method_about_images_lets_the_branch_without_image_through(family):
    model = zoo.build(family)
    together, rows = batch(family)
    with attnpatch.apply(model, "pai", alpha=2.0, first_layer=0) as patch:
        out = decoding.generate(model, together, "guidance", gamma=3.0, cut=0.0, **STEPS, **FULL)
        assert patch.active
        with pytest.raises(attnpatch.UnsupportedCallError, match="no prompt of this batch holds an image"):
            model.generate(**text_of(rows[0]), **STEPS)
        patched = [logits_along(model, row, written(out, together)[n]) for n, row in enumerate(rows)]
    for number, row in enumerate(rows):
        tokens = written(out, together)[number]
        z, z_no = patched[number], logits_along(model, text_of(row), tokens)
        z[:, [*STEPS["suppress_tokens"], 2]] = -torch.inf
        expected = 3 * z.log_softmax(-1) - 2 * z_no.log_softmax(-1)
        assert torch.allclose(torch.stack(out.scores, 1)[number], expected, atol=1e-4)


def test_padding_of_the_branch_without_image_is_text():
    together, rows = batch("llava")
    cut = read_prompts(zoo.build("llava"), together).without_images()
    assert not bool(cut["attention_mask"].all())
    assert zoo.IMAGE not in cut["input_ids"]
    for number, row in enumerate(rows):
        kept = cut["input_ids"][number][cut["attention_mask"][number].bool()]
        assert torch.equal(kept, text_of(row)["input_ids"][0])


def test_other_methods_act_on_the_second_branch_as_on_any_prompt():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with attnpatch.apply(model, "sliding", window=3, sink=0):
        out = decoding.generate(model, inputs, "guidance", gamma=3.0, cut=0.0, **STEPS, **FULL)
        z_no = logits_along(model, text_of(inputs), written(out, inputs)[0])
    z = torch.cat(out.logits)
    z[:, [*STEPS["suppress_tokens"], 2]] = -torch.inf
    expected = 3 * z.log_softmax(-1) - 2 * z_no.log_softmax(-1)
    assert torch.allclose(torch.cat(out.scores), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["guidance", "vcd"])
def test_seeds_of_the_first_branch_are_those_it_has_alone(name):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    found = []
    for companion in (None, name):
        with attnpatch.apply(model, "stochastic", window=3):
            runs = []
            for _ in range(3):
                options = {**inputs, **STEPS, "max_new_tokens": 1, "min_new_tokens": 1, **FULL}
                if companion is not None:
                    options |= decoding.build(companion).settings(model, inputs)
                runs.append(model.generate(**options).logits[0])
            found.append(torch.cat(runs))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0][0], found[0][1]), "all prompts drew the same, so this shows nothing"


@pytest.mark.parametrize("name", ["guidance", "vcd"])
def test_the_second_branch_has_the_number_of_the_first(name):
    class Numbers(attnpatch.Method):
        def attend(self, call, inner):
            if call.layer == 0 and call.offset == 0:
                numbers.append(call.forward.index)
            return inner(call)

    numbers: list[int] = []
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with attnpatch.apply(model, Numbers()):
        for _ in range(2):
            decoding.generate(model, inputs, name, **STEPS)
    assert numbers == [0, 0, 1, 1]


def test_a_declared_prompt_is_the_first_branchs_alone():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with attnpatch.apply(model, "pai", first_layer=0) as patch:
        expected = decoding.generate(model, inputs, "vcd", alpha=3.0, **STEPS)
        with patch.prompt(inputs["input_ids"].shape[1]):
            assert torch.equal(decoding.generate(model, inputs, "vcd", alpha=3.0, **STEPS), expected)
            with beside(model, images=False):
                assert patch._installation.declared_prompt is None
            assert patch._installation.declared_prompt == inputs["input_ids"].shape[1]


def test_inference_mode():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    expected = decoding.generate(model, inputs, "vcd", alpha=3.0, **STEPS)
    with torch.inference_mode():
        assert torch.equal(decoding.generate(model, inputs, "vcd", alpha=3.0, **STEPS), expected)
