"""What `look` reads and what it draws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import attnpatch
from attnpatch.vision import look
from attnpatch.vision.capture import captured
from attnpatch.vision.drawing import draw
from attnpatch.vision.looking import outliers
from attnpatch.vision.prompts import prompt_inputs
from tests.snapshots import structure
from tests.vision.small import QUESTION, picture, processor, small_model, used_model


@pytest.fixture(scope="module")
def model():
    return used_model()


@pytest.fixture(scope="module")
def looks(model):
    return look(model, processor(), picture(60, 48), QUESTION, methods=[("raised", ("pai", {"alpha": 2.0}))], token=1)


def test_it_holds_the_attention_of_the_row_that_writes_the_token(model, looks):
    before = structure(model)
    inputs = prompt_inputs(model, processor(), picture(60, 48), QUESTION)

    def run():
        with torch.no_grad():
            return model.generate(**inputs, max_new_tokens=2, do_sample=False)

    made, seen = captured(model, range(4), run)
    stock, raised = looks.runs
    assert torch.equal(stock.attention, seen[:, 1])
    assert stock.token == processor().tokenizer.decode(made[0, -1:])
    with attnpatch.apply(model, "pai", alpha=2.0):
        _, seen = captured(model, range(4), run)
    assert torch.equal(raised.attention, seen[:, 1])
    assert looks.layers == [0, 1, 2, 3]
    assert structure(model) == before


def test_sinks_are_tokens_that_are_massive_where_the_first_one_is(model):
    marked, shown = small_model(), picture()
    inputs = prompt_inputs(marked, processor(), shown, QUESTION)
    image = (inputs["input_ids"][0] == marked.config.image_token_id).nonzero().flatten()

    def massive(module, args, kwargs):
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if states.shape[1] > 1:
            states[:, 0, 5] = 3000  # the first token, and two image tokens: one in the same dimension
            states[:, image[7], 5] = -3000
            states[:, image[9], 6] = 3000

    handle = marked.model.language_model.layers[2].register_forward_pre_hook(massive, with_kwargs=True)
    found = look(marked, processor(), shown, QUESTION)
    handle.remove()
    (run,) = found.runs
    # 64 dimensions allow a spike of 8 at most, so no token of this small model is massive: outliers are marked
    assert run.marked == "outliers"
    wide = small_model_of(512)
    handle = wide.model.language_model.layers[2].register_forward_pre_hook(massive, with_kwargs=True)
    found = look(wide, processor(), shown, QUESTION)
    handle.remove()
    (run,) = found.runs
    assert run.marked == "phi"
    assert run.sinks[2].nonzero().flatten().tolist() == [7]
    assert not run.sinks[:2].any()


def small_model_of(hidden: int):
    from attnpatch.sandbox.vision.model import build_model

    return build_model(layers=4, hidden=hidden, vision_layers=3, vision_hidden=32).eval()


def test_outliers_are_far_above_the_quartiles():
    values = torch.tensor([[1.0, 1, 1, 2, 2, 2, 2, 5.1], [1.0, 1, 1, 2, 2, 2, 2, 4.9]])
    assert outliers(values).sum(-1).tolist() == [1, 0]


@pytest.mark.parametrize("heads", [False, True])
def test_a_valid_picture_of_sensible_size(looks, tmp_path, heads):
    shown = dataclasses.replace(
        looks,
        layers=[2],
        runs=[dataclasses.replace(run, attention=run.attention[2:3], sinks=run.sinks[2:3]) for run in looks.runs],
    )
    file = draw(shown if heads else looks, tmp_path / "new" / "look.png", heads=heads)
    with Image.open(file) as found:
        found.load()
        assert found.format == "PNG"
        width, height = found.size
    assert 400 < width < 2500
    assert 300 < height < 2500


def test_what_is_looked_at_is_bright_and_sinks_are_ringed(looks, tmp_path):
    run = looks.runs[0]
    attention, sinks = torch.zeros_like(run.attention), torch.zeros_like(run.sinks)
    attention[..., 0] = 0.1  # the upper left token
    attention[:, :, 35], sinks[:, 35] = 0.8, True  # a sink in the lower right corner
    plain = dataclasses.replace(run, attention=attention * 0, sinks=sinks & False)
    shown = dataclasses.replace(looks, picture=Image.new("RGB", (60, 48), (120, 120, 120)))
    drawn = []
    for number, one in enumerate((dataclasses.replace(run, attention=attention, sinks=sinks), plain)):
        file = draw(dataclasses.replace(shown, runs=[one]), tmp_path / f"{number}.png")
        drawn.append(np.asarray(Image.open(file).convert("RGB"), dtype=int))
    width = drawn[0].shape[1]
    first = slice(None), slice(int(width * 0.2), int(width * 0.4))  # the panel of layer 0
    ring, none = (np.abs(one[first] - np.array([0, 200, 255])).sum(-1) < 60 for one in drawn)
    assert ring.any()
    assert not none.any()
    brighter = (drawn[0][first] - drawn[1][first]).sum(-1) > 120
    (ring_rows, ring_columns), (rows, columns) = ring.nonzero(), brighter.nonzero()
    assert np.median(rows) < ring_rows.min()  # the sink itself is bright too, but only the corner of the two
    assert columns.min() < ring_columns.min()
    assert brighter.sum() > 300


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        ("nothing.png", {}, "'nothing.png' does not exist"),
        (__file__, {}, "cannot be read"),
        (picture(), {"token": -1}, "token must be 0 or more"),
        (picture(), {"layers": "9"}, "layer 9 does not exist"),
        (picture(), {"methods": [("pia", ("pia", {}))]}, "Did you mean 'pai'"),
    ],
)
def test_bad_input(model, image, options, message):
    before = structure(model)
    with pytest.raises(attnpatch.AttnPatchError, match=message):
        look(model, processor(), image, QUESTION, **options)
    assert structure(model) == before


def test_an_answer_that_ends_before_the_token(model):
    ending = small_model()
    ending.generation_config.eos_token_id = _first_word(ending)
    with pytest.raises(attnpatch.AttnPatchError, match=r"stock has only 1 tokens .* Allowed: 0 to 0"):
        look(ending, processor(), picture(), QUESTION, token=3)


def _first_word(model) -> int:
    inputs = prompt_inputs(model, processor(), picture(), QUESTION)
    with torch.no_grad():
        return int(model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1])
