"""Massive activations: planted ones are found, on text alone and on prompts with images, and the model stays as is."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.methods.vision.massive import (
    Strength,
    like_first,
    measure_text_model,
    middle,
    phi,
    residual_stream,
    spikes,
    threshold,
)
from attnpatch.methods.vision.var import VAR
from attnpatch.patching.sites import text_base
from tests import zoo
from tests.methods.vision import planted
from tests.methods.vision.prompts import FAMILIES, batch
from tests.snapshots import structure


def test_spikes_are_relative_to_the_rest():
    states = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    assert torch.allclose(spikes(states)[0], states[0] / 12.5**0.5, atol=1e-4)
    assert torch.allclose(spikes(states)[0], spikes(states)[1], atol=1e-4)
    assert torch.allclose(phi(states, torch.tensor([0])), spikes(states)[:, 0])
    assert spikes(states.to(torch.bfloat16)).dtype == torch.float32


def test_strength_is_the_median_over_layers_of_the_highest_sink():
    found = Strength()
    for layer, size in enumerate((100.0, 400.0, 0.0)):
        states = torch.ones(1, 3, 1024)
        states[0, 0, 5], states[0, 1, 9], states[0, 2, 7] = size, 2 * size, 500.0
        found.add(layer, states, torch.tensor([[True, True, False]]))  # the last token is no sink
    assert found.dims(20.0) == (9, 5)
    assert found.dims(60.0) == ()
    assert found.strongest() == "dimension 9 reaches 31.6"


@pytest.mark.parametrize(
    "layers, chosen", [(1, [0]), (2, [0, 1]), (4, [1, 2]), (9, [3, 4, 5]), (32, [*range(10, 22)])]
)
def test_the_middle_third(layers, chosen):
    assert list(middle(layers)) == chosen


def test_the_threshold_follows_what_can_be_reached():
    assert threshold(4096) == threshold(1024) == 20.0
    assert threshold(128) == pytest.approx(20 / 64 * 128**0.5, abs=0.01)


def test_planted_dimensions_are_found_on_text_alone():
    model = planted.build()
    before, base = structure(model), model.model.language_model
    assert measure_text_model(base).dims(20.0) == ()
    with planted.planted(base.layers, [0, 5]):
        assert set(measure_text_model(base).dims(20.0)) == set(planted.DIMS)
        alone = {layer for layer in range(9) if like(base, layer)}
    assert alone == set(range(planted.FROM, planted.UNTIL))
    assert structure(model) == before


def like(base, wanted: int) -> bool:
    """Does token 5 point where the first one does, where it enters a layer?"""
    seen = {}
    ids = torch.arange(3, 13)[None]
    with residual_stream(base, lambda layer, states: seen.update({layer: states})), torch.no_grad():
        base(input_ids=ids)
    return bool(like_first(seen[wanted], torch.tensor([0]))[0, 5])


@pytest.mark.parametrize("family", FAMILIES)
def test_text_models_of_all_families_can_be_measured(family):
    model = zoo.build(family)
    inputs = zoo.image_prompt(family)
    with torch.no_grad():
        stock = model(**inputs).logits
    before = structure(model)
    found = measure_text_model(text_base(model))
    assert found.of_dims.shape == (32,)
    assert bool((found.of_dims > 0).all())
    assert structure(model) == before
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock)


@pytest.mark.parametrize("side", ["left", "right"])
def test_calibration_finds_them_with_images(side):
    model = planted.build()
    inputs = batch("llava", side)[0]
    # Token 7 is an image token of both prompts on the left, token 3 on the right; 0 is padding of one of them there.
    first, image = (5, 7) if side == "left" else (0, 3)
    if side == "left":
        inputs = {name: value[:1] for name, value in inputs.items()}
    layers = model.model.language_model.layers
    # The next image token is as loud, in a direction of its own: no sink.
    with planted.planted(layers, [first, image]), planted.planted(layers, [image + 1], (50,)):
        found = VAR.calibrate(model, [inputs])
    assert set(found["dims"]) == set(planted.DIMS)
    assert "tau" not in found  # 20 as ever
    details = found["details"]
    for where in ("dims_at_first_token", "dims_at_image_sinks", "dims_at_both"):
        assert set(details[where]) == set(planted.DIMS)
    assert details["images"] == len(inputs["input_ids"])
    assert [details["image_sinks_per_prompt"][str(layer)] for layer in (1, 2, 6, 7)] == [0, 1, 1, 0]
    assert details["phi_of_image_tokens"]["4"][-1] > 20
    with attnpatch.apply(model, "var", **{key: found[key] for key in ("dims",)}):
        pass


def test_calibration_without_sinks_or_images():
    model = planted.build()
    inputs = zoo.image_prompt("llava")
    with pytest.raises(attnpatch.AttnPatchError, match=r"no dimension.*tau=20 .*32\.0 is the most.*dims="):
        VAR.calibrate(model, [inputs])
    text = {"input_ids": torch.tensor([[1, 5, 6]])}
    with pytest.raises(attnpatch.AttnPatchError, match="none of those given holds one"):
        VAR.calibrate(model, [text])
