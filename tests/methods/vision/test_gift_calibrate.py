"""gift's layers, measured on a model and used from a profile."""

from __future__ import annotations

import json

import pytest
import torch

import attnpatch
from attnpatch.methods.vision.gift import GIFT
from attnpatch.methods.vision.profile import Profile
from tests import zoo
from tests.methods.vision import gift_cases as cases
from tests.methods.vision.agreement import sharp
from tests.methods.vision.prompts import batch
from tests.snapshots import generated_logits, same, structure


def total_shift(model, inputs: dict, layer: int) -> float:
    """Sum of the positive gaze shifts of content words, in float64, a mean over the prompts with an image."""
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad(), attnpatch.apply(model, cases.record(layer, seen)):
        model(**inputs)
    total, prompts = 0.0, 0
    for row, own in zip(seen["weights"], cases.sets_of(inputs["input_ids"], inputs["attention_mask"]), strict=True):
        prompts += bool(own["image"])
        for i in own["content"]:
            total += (row[:, i] - row[:, i - 1]).clamp(min=0)[:, own["image"]].sum().item()
    return total / prompts


def test_the_layer_with_the_largest_shift_is_found():
    model = sharp("gemma3")  # six layers
    inputs, _ = batch("gemma3")
    before = structure(model)
    found = GIFT.calibrate(model, [inputs], tokenizer=cases.Tokenizer())
    assert structure(model) == before
    expected = [total_shift(model, inputs, layer) for layer in range(6)]
    details = found["details"]
    assert (details["layers"], details["prompts"]) == ([0, 1, 2, 3, 4, 5], 2)
    assert torch.allclose(torch.tensor(details["shift"]), torch.tensor(expected), rtol=1e-4)
    best = max(range(5), key=expected.__getitem__)
    assert (found["saliency_layer"], found["layers"]) == (best, f"{best + 1}:")
    assert json.loads(json.dumps(found)) == found


def test_batches_are_averaged_over_their_prompts():
    model = sharp("llava")
    together, rows = batch("llava", text_row=True)
    one = GIFT.calibrate(model, [together], content="all")["details"]
    each = GIFT.calibrate(model, rows, content="all")["details"]
    assert one["prompts"] == each["prompts"] == 2
    assert torch.allclose(torch.tensor(one["shift"]), torch.tensor(each["shift"]), rtol=1e-3)


def test_a_profile_is_what_gift_needs_on_an_unknown_model(tmp_path):
    model, inputs = sharp("llava"), zoo.image_prompt("llava")
    found = GIFT.calibrate(model, [inputs], content="all")
    file = Profile.of("gift", model.config.text_config, found).write(tmp_path / "gift.json")
    with attnpatch.apply(model, "gift", profile=str(file), content="all") as patch:
        assert patch.methods[0].saliency_layer == found["saliency_layer"] == 0
        first = generated_logits(model, inputs)
    with attnpatch.apply(model, "gift", saliency_layer=0, layers="1:", content="all"):
        assert same(generated_logits(model, inputs), first)
    with pytest.raises(attnpatch.UnsupportedModelError, match="measured on another architecture"):
        attnpatch.apply(zoo.build("gemma3"), "gift", profile=str(file), content="all")


def test_nothing_to_measure_is_refused():
    model = zoo.build("llava")
    _, rows = batch("llava", text_row=True)
    with pytest.raises(attnpatch.AttnPatchError, match="calibrated on questions behind an image"):
        GIFT.calibrate(model, [rows[2]], content="all")
    with pytest.raises(attnpatch.AttnPatchError, match="no name to load its tokenizer by"):
        GIFT.calibrate(model, [rows[0]])
