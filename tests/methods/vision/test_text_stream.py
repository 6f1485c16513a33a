"""The pass over the text alone: what it computes, and that nobody else notices it."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import DynamicCache

import attnpatch
from attnpatch.methods.vision import vhr
from attnpatch.patching.dispatch import FORWARD_KEY
from attnpatch.patching.steps import Steps
from tests import zoo
from tests.methods.vision.prompts import FAMILIES, batch
from tests.methods.vision.two_streams import deep_llava

WRAPPERS = (102, 103)


class Spy(attnpatch.Method):
    """Keeps what the attention gives: of passes that a method runs for itself, and of the user's."""

    name = "spy"

    def __init__(self) -> None:
        super().__init__()
        self.aside: list[torch.Tensor] = []
        self.user: list[torch.Tensor] = []

    def attend(self, call, inner):
        output, weights = inner(call)
        (self.user if call.forward.aside is None else self.aside).append(output)
        return output, weights


def text_of(inputs: dict, *, wrappers: bool) -> dict:
    """The prompt without its image, by hand."""
    ids = inputs["input_ids"][0]
    keep = ids != zoo.IMAGE
    if not wrappers:
        keep &= ~torch.isin(ids, torch.tensor(WRAPPERS))
    by_token = {"input_ids", "token_type_ids", "mm_token_type_ids"} & set(inputs)
    return {name: inputs[name][:, keep] for name in by_token}


@pytest.mark.parametrize("wrappers", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_model_on_the_text_by_itself(family, wrappers):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    if family == "gemma3":
        inputs["input_ids"][0, -1] = 103
    with torch.no_grad():
        spy = Spy()
        with attnpatch.apply(model, spy):
            model(**text_of(inputs, wrappers=wrappers))
        expected = spy.user
        for options in ({"alpha": 1.0}, {"reinforce_text": False}):
            spy = Spy()
            with attnpatch.apply(model, [spy, ("vhr", {"drop_wrappers": not wrappers, **options})]):
                model(**inputs)
            assert len(spy.aside) == len(expected)
            assert all(torch.equal(a, b) for a, b in zip(spy.aside, expected, strict=True))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_runs_over_the_prompt_and_not_over_what_is_scored(family):
    model = zoo.build(family)
    together, rows = batch(family)
    short, long = (text_of(row, wrappers=False)["input_ids"].shape[1] for row in rows)
    prompt = together["input_ids"].shape[1] - 2
    spy = Spy()
    with attnpatch.apply(model, [spy, ("vhr", {"reinforce_text": False})]) as patch, torch.no_grad():
        model(**together)
        with patch.prompt(prompt):
            model(**together)
    lengths = [output.shape[:2] for output in spy.aside]
    assert lengths[0] == (2, long)
    assert lengths[-1] == (2, long - 2)
    assert short < long


def test_every_layer_runs_once_the_chosen_ones_in_lock_step():
    model, inputs = deep_llava(6), zoo.image_prompt("llava")
    inputs["pixel_values"] = inputs["pixel_values"].double()
    spy = Spy()
    with attnpatch.apply(model, [spy, ("vhr", {"layers": (2, 4)})]), torch.no_grad():
        model(**inputs)
    whole = Spy()
    with attnpatch.apply(model, [whole, ("vhr", {"layers": (2, 4), "reinforce_text": False})]), torch.no_grad():
        model(**inputs)
    assert len(whole.aside) == 6
    assert len(spy.aside) == 5  # layers 0 and 1 in one go, 2 to 4 in steps
    assert all(torch.equal(mine, other) for mine, other in zip(spy.aside[:3], whole.aside[:3], strict=True))
    assert not torch.equal(spy.aside[3], whole.aside[3])  # what layer 2 scaled


@pytest.mark.parametrize("options", [{}, {"reinforce_text": False}])
def test_nothing_is_counted(options):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with attnpatch.apply(model, "vhr", layers="all", **options) as patch, torch.no_grad():
        cache = DynamicCache(config=model.config.get_text_config())
        model(**inputs, past_key_values=cache)
        report = patch.report()
        assert [site.calls for site in report.sites] == [1, 1]
        assert report.backends == {"sdpa": 2}
        assert report.mean_keys == (inputs["input_ids"].shape[1] + 1) / 2
        assert patch._installation.sequences == 1
        assert len(patch._installation.states) == 1
        assert cache.get_seq_length() == inputs["input_ids"].shape[1]


def test_positions_of_qwen_are_those_of_the_prompt():
    model, inputs = zoo.build("qwen2_5_vl"), zoo.image_prompt("qwen2_5_vl")
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == zoo.IMAGE).long()
    with torch.no_grad():
        model(**inputs)
        expected = model.model.rope_deltas
        assert bool(expected.any())
        model.model.rope_deltas = None
        with attnpatch.apply(model, "vhr"):
            model(**inputs)
    assert torch.equal(model.model.rope_deltas, expected)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_hidden_states_that_the_user_asked_for_are_the_prompts(family):
    model = zoo.build(family, attn_implementation="eager")
    inputs = zoo.image_prompt(family)
    ask = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        stock = model(**inputs, **ask)
        with attnpatch.apply(model, "vhr", layers="all"):
            found = model(**inputs, **ask)
    assert [one.shape for one in found.hidden_states] == [one.shape for one in stock.hidden_states]
    assert [one.shape for one in found.attentions] == [one.shape for one in stock.attentions]
    assert torch.equal(found.attentions[0], stock.attentions[0])


def test_what_was_recorded_is_gone_with_the_forward(monkeypatch):
    model, inputs, alive = zoo.build("llava"), zoo.image_prompt("llava"), []

    class Watched(vhr.TextStream):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            alive.append(weakref.ref(self))

    monkeypatch.setattr(vhr, "TextStream", Watched)
    cache = DynamicCache(config=model.config.get_text_config())
    gc.disable()
    try:
        with attnpatch.apply(model, "vhr"), torch.no_grad():
            model(**inputs, past_key_values=cache)
    finally:
        gc.enable()
    assert len(alive) == 1
    assert alive[0]() is None


class Layer(nn.Module):
    """A decoder layer, as much of one as a pass in steps asks for."""

    def __init__(self, in_tuple: bool = False) -> None:
        super().__init__()
        self.inner, self.in_tuple, self.calls = nn.Linear(2, 2), in_tuple, 0

    def forward(self, hidden, **kwargs):
        self.calls += 1
        output = self.inner(hidden)
        return (output,) if self.in_tuple else output


def run(layers, hidden, purpose):
    for layer in layers:
        hidden = layer(hidden, **{FORWARD_KEY: SimpleNamespace(aside=purpose)})
        hidden = hidden[0] if layer.in_tuple else hidden
    return hidden


@pytest.mark.parametrize("in_tuple", [False, True])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_pass_in_steps_is_the_pass_and_computes_what_is_asked_for_once(first, in_tuple):
    layers, purpose, hidden = [Layer(in_tuple) for _ in range(5)], object(), torch.ones(1, 2)
    expected = run(layers[:4], hidden, None)
    steps = Steps(layers, first, 4)
    with steps.recording(purpose):
        run(layers, hidden, purpose)
        assert torch.equal(run(layers[:4], hidden, None), expected)  # somebody else's pass
    found = steps.start()
    for number in range(first, 4):
        found = steps.run(number, found)
    assert torch.equal(found, expected)
    assert [layer.calls for layer in layers] == [4 if first == 0 else 3, 3, 3, 3, 0]


def test_a_model_that_changes_hidden_states_between_its_layers_is_refused():
    layers, purpose = [Layer() for _ in range(2)], object()
    named = {FORWARD_KEY: SimpleNamespace(aside=purpose)}

    def own(hidden, **kwargs):  # as accelerate puts one in
        return Layer.forward(layers[1], hidden, **kwargs)

    layers[1].forward = own
    with Steps(layers, 1, 2).recording(purpose):
        hidden = layers[0](torch.ones(1, 2), **named)
        with pytest.raises(attnpatch.UnsupportedCallError, match="between its layers"):
            layers[1](hidden + 1, **named)
    assert "forward" not in vars(layers[0])
    assert layers[1].forward is own


def test_forwards_are_put_back_after_an_error():
    layers = [Layer()]
    with pytest.raises(RuntimeError, match="inside"), Steps(layers, 0, 1).recording(object()):
        raise RuntimeError("inside")
    assert "forward" not in vars(layers[0])
