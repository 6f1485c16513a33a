"""Ways to call a model that methods about images have to bear: other precisions, graphs, gradients, hooks, caches."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache

import attnpatch
from attnpatch.methods.vision.base import VisionMethod, answer_rows
from attnpatch.methods.vision.var import VAR
from attnpatch.patching.edits import Edit
from tests import zoo
from tests.methods.vision.prompts import batch
from tests.methods.vision.test_behaviours import CASES, close, logits, patched
from tests.snapshots import generated_logits

NEXT = {"input_ids": torch.tensor([[31]])}
COMPILED = [("pai", {"first_layer": 0, "alpha": 2.0}), ("vhr", {"layers": (0, 1)})]  # one that edits, one that asks


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def model():
    return zoo.build("llava")


@pytest.fixture
def inputs():
    return zoo.image_prompt("llava")


def cache_of(model) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config())


def test_in_float64_it_is_what_it_is_in_float32_and_so_are_its_gradients(case):
    model = zoo.build("llava")
    together, _ = batch("llava", text_row=True)
    with patched(model, case):
        expected = model(**together).logits
        expected.square().sum().backward()
    expected_gradient = model.model.language_model.layers[0].self_attn.v_proj.weight.grad
    double = copy.deepcopy(model).double()
    double.zero_grad()
    together["pixel_values"] = together["pixel_values"].double()
    with patched(double, case):
        found = double(**together).logits
        found.square().sum().backward()
    assert found.dtype == torch.float64
    real = together["attention_mask"].bool()
    assert close(found[real], expected[real])
    gradient = double.model.language_model.layers[0].self_attn.v_proj.weight.grad
    assert torch.allclose(
        gradient.float(), expected_gradient, rtol=1e-3, atol=1e-3 * float(expected_gradient.abs().max())
    )


def test_gradients_behind_a_prompt_that_ran_in_inference_mode(model, inputs, case):
    cache = cache_of(model)
    with patched(model, case):
        with torch.inference_mode():
            model(**inputs, past_key_values=cache)
            model(**NEXT, past_key_values=cache)
        with torch.inference_mode(False):
            for layer in cache.layers:  # the cache itself cannot be saved for gradients either
                layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
        model(**NEXT, past_key_values=cache).logits.sum().backward()
    assert any(bool(parameter.grad.any()) for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("case", COMPILED)
def test_a_cache_that_the_model_makes_inside_a_graph_is_known_afterwards(model, inputs, case):
    token = torch.tensor([[31]])
    with patched(model, case), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        eager = model(input_ids=token, past_key_values=cache).logits
        torch.compiler.reset()
        graph = torch.compile(model, backend="eager")
        cache = graph(**inputs, use_cache=True).past_key_values
        found = graph(input_ids=token, past_key_values=cache).logits
    assert close(found, eager, 1e-5)


def test_a_cache_that_was_filled_elsewhere_is_refused(model, inputs, case):
    cache = cache_of(model)
    with patched(model, case, text_only="stock"):
        logits(model, inputs, past_key_values=cache)
        for other in (copy.deepcopy(cache), _filled(inputs)):
            with pytest.raises(attnpatch.UnsupportedCallError, match="did not run under method"):
                logits(model, NEXT, past_key_values=other)
        logits(model, NEXT, past_key_values=cache)


def _filled(inputs) -> DynamicCache:
    unpatched = zoo.build("llava")
    cache = cache_of(unpatched)
    logits(unpatched, inputs, past_key_values=cache)
    return cache


def test_where_its_images_stand_may_be_said():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    cache = _filled(inputs)
    with (
        attnpatch.apply(model, "pai", alpha=2.0, first_layer=0) as patch,
        patch.images(inputs["input_ids"] == zoo.IMAGE),
    ):
        found = logits(model, NEXT, past_key_values=cache)
    stock = logits(model, NEXT, past_key_values=_filled(inputs))
    assert not close(found, stock)


@pytest.mark.parametrize("name", ["pai", "devils", "paint"])
def test_another_method_in_the_same_place_takes_nothing_from_the_one_before(model, inputs, name):
    options = {"pai": {"first_layer": 0}, "devils": {"layers": "all"}, "paint": {"layers": "0:", "no_cls": "received"}}
    cache, found = cache_of(model), {}
    with attnpatch.apply(model, "locore", beta=0.0, layers="all"):  # what is remembered lives on with the cache
        with attnpatch.apply(model, name, alpha=0.1, **options[name]):
            logits(model, inputs, past_key_values=cache)
        for turn in range(20):
            alpha = (0.1, 1.0)[turn % 2]
            with attnpatch.apply(model, name, alpha=alpha, **options[name]):
                if name == "paint":  # it chooses its tokens where a prompt begins
                    cache = cache_of(model)
                    logits(model, inputs, past_key_values=cache)
                found.setdefault(alpha, []).append(logits(model, NEXT, past_key_values=cache))
            cache.crop(-1)
    assert all(torch.equal(one[0], other) for one in found.values() for other in one)
    assert not torch.equal(found[0.1][0], found[1.0][0])


class Halved(attnpatch.Method):
    """Weights that do not sum to one."""

    name = "halved"

    def attend(self, call, inner):
        call.edit(Edit(lambda weights, at: (weights * 0.5, None), everywhere=True))
        return inner(call)


@pytest.mark.parametrize(
    "outer",
    [
        ("locore", {"beta": 1.0, "layers": (0, 1)}),
        ("gift", {"alpha": 3.0, "beta": 3.0, "saliency_layer": 0, "layers": (1,), "content": "all"}),
    ],
)
def test_an_inner_edit_may_change_what_weights_sum_to(model, inputs, outer):
    with attnpatch.apply(model, [Halved(), outer]):
        short = generated_logits(model, inputs)
        found = []
        for output_attentions in (False, True):
            cache = cache_of(model)
            logits(model, inputs, past_key_values=cache)
            found.append(logits(model, NEXT, past_key_values=cache, output_attentions=output_attentions))
    assert short[1].isfinite().all()
    assert close(found[0], found[1], 1e-5)


@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_vhr_bears_hooks_that_replace_what_a_layer_returns(inputs, layers):
    outputs = []
    for reinforce_text in (True, False):
        model = zoo.build("llava")
        for layer in model.model.language_model.layers:
            layer.register_forward_hook(lambda module, given, output: output + 0.1)
        with attnpatch.apply(model, "vhr", layers=layers[-1:], reinforce_text=reinforce_text):
            outputs.append(logits(model, inputs))
        with attnpatch.apply(model, "vhr", layers=layers):
            assert logits(model, inputs).isfinite().all()
    assert torch.equal(*outputs)  # with one layer there is nothing to reinforce before it


def test_sinks_of_a_later_turn_stand_where_its_tokens_do(model, inputs):
    method, cache = VAR(dims=(30, 31), tau=1.0, layers="all", rho=0.0, summ=0.0), cache_of(model)
    prompt, generated = inputs["input_ids"].shape[1], 3
    with attnpatch.apply(model, method) as patch, torch.no_grad():
        model(**inputs, past_key_values=cache)
        first = patch._installation.states[cache][method, 0].tokens
        for _ in range(generated):
            model(**NEXT, past_key_values=cache)
        del inputs["attention_mask"]
        with patch.prompt(2 * prompt + generated):
            model(**inputs, past_key_values=cache)
        both = patch._installation.states[cache][method, 0].tokens
    assert both.shape[1] == 2 * prompt + generated
    assert torch.equal(both[:, :prompt], first)
    assert not bool(both[:, prompt : prompt + generated].any())


class Shift(VisionMethod):
    """Takes note of the images that each of its edits was made for."""

    name = "shift"

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def attend(self, call, inner):
        def change(call):
            self.made.append(int(call.images.mask.sum()))
            return lambda weights, at: (weights.flip(-1), None)

        self.edit_rows(call, answer_rows, change)
        return inner(call)


def test_an_edit_is_made_once_for_all_layers_and_for_the_generated_tokens_of_a_turn(model, inputs):
    method, cache = Shift(), cache_of(model)
    prompt, images = inputs["input_ids"].shape[1], int((inputs["input_ids"] == zoo.IMAGE).sum())
    with attnpatch.apply(model, method) as patch, torch.no_grad():
        model(**inputs, past_key_values=cache)
        assert method.made == [images]
        for _ in range(3):
            model(**NEXT, past_key_values=cache)
        assert method.made == [images] * 2
        del inputs["attention_mask"]
        with patch.prompt(2 * prompt + 3):
            model(**inputs, past_key_values=cache)
            model(**NEXT, past_key_values=cache)
            model(**NEXT, past_key_values=cache)
        assert method.made == [images] * 2 + [2 * images] * 2
        model(**inputs)  # another cache
        assert method.made[4:] == [images]


def test_an_edit_of_generated_tokens_is_made_anew_for_more_images(model, inputs):
    method, cache = Shift(), cache_of(model)
    images = int((inputs["input_ids"] == zoo.IMAGE).sum())
    with attnpatch.apply(model, method) as patch, torch.no_grad(), patch.prompt(inputs["input_ids"].shape[1]):
        model(**inputs, past_key_values=cache)
        model(**NEXT, past_key_values=cache)
        del inputs["attention_mask"]
        model(**inputs, past_key_values=cache)
        model(**NEXT, past_key_values=cache)
    assert method.made == [images] * 2 + [2 * images] * 2


def test_an_edit_of_generated_tokens_is_made_anew_behind_another_prompt(model, inputs):
    method, cache = Shift(), cache_of(model)
    with attnpatch.apply(model, method) as patch, torch.no_grad():
        model(**inputs, past_key_values=cache)
        model(**NEXT, past_key_values=cache)
        with patch.prompt(inputs["input_ids"].shape[1] + 4):
            words = model.get_input_embeddings()(torch.tensor([[31, 32, 33]]))
            model(inputs_embeds=words, past_key_values=cache)  # without tokens, so the images stay the same
            model(**NEXT, past_key_values=cache)
    assert len(method.made) == 4


@pytest.mark.parametrize("case", COMPILED)
def test_layers_that_were_compiled_one_by_one(model, inputs, case):
    with patched(model, case):
        expected = generated_logits(model, inputs)
    torch.compiler.reset()
    layers = model.model.language_model.layers
    for number, layer in enumerate(layers):
        layers[number] = torch.compile(layer, backend="eager", dynamic=True)
    stock = generated_logits(model, inputs)
    with patched(model, case):
        found = generated_logits(model, inputs)
    assert torch.equal(found[0], expected[0])
    assert close(found[1], expected[1], 1e-5)
    assert not close(found[1], stock[1], 1e-5)
    assert torch.equal(generated_logits(model, inputs)[1], stock[1])
