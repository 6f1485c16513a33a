"""vhr: both streams against a hand-written reference, and what is promised about the heads."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import attnpatch
from attnpatch.methods.vision.heads import above_median, head_divergence, text_activation, without_outliers
from attnpatch.methods.vision.profile import Profile
from attnpatch.methods.vision.vhr import paper_layers
from attnpatch.patching.edits import Edit
from attnpatch.patching.parts import joined_rows
from tests import zoo
from tests.methods.vision.prompts import batch
from tests.methods.vision.two_streams import answer, deep_llava
from tests.snapshots import generated_logits, same


def chosen(patch, cache) -> dict[int, torch.Tensor]:
    """Gains `[B, H]` by layer, as they are kept with the cache."""
    state, method = patch._installation.states[cache], patch.methods[-1]
    return {key[1]: gain[:, 0, :, 0] for key, gain in state.items() if isinstance(key, tuple) and key[0] is method}


def new_cache(model) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config())


def gains(model, inputs: dict, *around, prompt: int | None = None, **options) -> dict[int, torch.Tensor]:
    """Gains by layer after one forward; `around`: methods below vhr."""
    cache = new_cache(model)
    with attnpatch.apply(model, [*around, ("vhr", options)]) as patch, torch.no_grad():
        with patch.prompt(inputs["input_ids"].shape[1] if prompt is None else prompt):
            model(**inputs, past_key_values=cache)
        return chosen(patch, cache)


def doubled(inputs: dict) -> dict:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


# The formulas


def test_a_head_that_stands_out_in_both_streams_counts_as_blind():
    values = torch.tensor([1.0, 1.0, 1.0, 9.0])
    filtered = without_outliers(values, values)
    assert filtered.tolist() == [1, 1, 1, 0]
    assert not above_median(filtered).any()  # the median is 1, and none lies above it
    assert without_outliers(values, torch.ones(4)).tolist() == [1, 1, 1, 9]
    assert above_median(values).tolist() == [False, False, False, True]


def test_divergence_is_a_distance_and_activation_a_squared_size():
    image, text = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    assert head_divergence(image, text).tolist() == [5, 2]
    assert text_activation(text).tolist() == [0, 10]
    assert text_activation(text.half() * 200).tolist() == [0, 400_000]  # more than half precision holds


@pytest.mark.parametrize(
    ("depth", "layers"), [(32, [1, *range(18, 32)]), (2, [1]), (1, [0]), (28, [1, *range(16, 28)])]
)
def test_the_papers_layers_at_another_depth(depth, layers):
    assert paper_layers(depth) == layers


# Both streams


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (0, {}),
        (0, {"reinforce_text": False}),
        (0, {"outlier_filter": False}),
        (0, {"rows": "last"}),
        (1, {}),
        (3, {"reinforce_text": False, "rows": "last"}),
    ],
)
def test_agrees_with_both_streams_by_hand(seed, options):
    model, inputs = deep_llava(seed=seed), doubled(zoo.image_prompt("llava"))
    layers = [1, 3, 4]
    with torch.no_grad():
        expected, heads = answer(model, inputs, 4, layers, 1.7, **options)
    with attnpatch.apply(model, "vhr", alpha=1.7, layers=layers, **options):
        found = generated_logits(model, inputs)[1][:, 0].double()  # generate() hands out fp32
    assert torch.allclose(found, expected, atol=1e-4)  # the model's own RoPE is fp32
    found = gains(model, inputs, alpha=1.7, layers=layers, **options)
    assert {layer: (gain[0] > 1).nonzero().flatten().tolist() for layer, gain in found.items()} == heads


def test_the_reference_tells_the_options_apart():
    model, inputs = deep_llava(), doubled(zoo.image_prompt("llava"))
    with torch.no_grad():
        heads = [
            answer(model, inputs, 1, [1, 3, 4], 1.7, **options)[1]
            for options in ({}, {"reinforce_text": False}, {"outlier_filter": False})
        ]
    assert heads[0] != heads[1]
    assert heads[0] != heads[2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_alpha_one_is_stock_bit_for_bit_in_half_precision(dtype):
    model = zoo.build("llava").to(dtype)
    together = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in batch("llava")[0].items()
    }
    stock = generated_logits(model, together)
    with attnpatch.apply(model, "vhr", alpha=1.0, layers="all"):
        assert same(stock, generated_logits(model, together))
    with attnpatch.apply(model, "vhr", layers="all"):
        assert not same(stock, generated_logits(model, together))


# Which heads


def test_at_most_half_of_the_heads_and_none_without_an_image():
    for seed in range(3):
        model = deep_llava(seed=seed, heads=8)
        found = gains(model, doubled(batch("llava", text_row=True)[0]), layers="all", text_only="stock")
        assert sorted(found) == [0, 1, 2, 3, 4]
        for gain in found.values():
            assert set(gain.unique().tolist()) <= {1.0, 2.0}
            assert ((gain[:2] > 1).sum(1) <= 4).all()
            assert (gain[:2] > 1).any(1).all()
            assert (gain[2] == 1).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_a_batch_chooses_for_each_prompt_what_it_has_alone(family, side):
    model = zoo.build(family)
    together, rows = batch(family, side, text_row=True)
    found = gains(model, together, layers="all", text_only="stock")
    for number, row in enumerate(rows[:2]):
        alone = gains(model, row, layers="all")
        assert all(torch.equal(found[layer][number], alone[layer][0]) for layer in alone)


def test_heads_stay_through_the_answer():
    model, inputs = deep_llava(), doubled(zoo.image_prompt("llava"))
    cache = new_cache(model)
    with attnpatch.apply(model, "vhr", layers="all") as patch, torch.no_grad():
        model(**inputs, past_key_values=cache)
        first = chosen(patch, cache)
        for token in (5, 50, 90):
            model(input_ids=torch.tensor([[token]]), past_key_values=cache)
        last = chosen(patch, cache)
    assert len(first) == 5
    assert all(first[layer].data_ptr() == last[layer].data_ptr() for layer in first)


class Blind(attnpatch.Method):
    """Some heads see no image tokens: what they see of the text is what they would see without."""

    name = "blind"
    needs_images = True

    def __init__(self, heads: list[int]) -> None:
        super().__init__()
        self.heads = heads

    def attend(self, call, inner):
        images = call.images
        if images is None:
            return inner(call)
        which = torch.zeros(call.query.shape[1], dtype=torch.bool)
        which[self.heads] = True

        def blinded(scores, at):
            image = at.of(images.keys(at.key_first, scores.shape[-1]))[:, None, None] & which[:, None, None]
            return scores.masked_fill(image, -torch.inf), None

        call.edit(Edit(blinded, before_softmax=True))
        return inner(call)


@pytest.mark.parametrize("blind", [[0, 3], [1, 2], [2, 3]])
def test_heads_that_are_blind_to_the_image_are_never_chosen(blind):
    model, inputs = deep_llava(seed=5), doubled(zoo.image_prompt("llava"))
    # Without the first token the image comes first: no text token is further from another one because of it.
    inputs |= {name: inputs[name][:, 1:] for name in ("input_ids", "attention_mask")}
    assert inputs["input_ids"][0, 0] == zoo.IMAGE
    sighted = sorted({0, 1, 2, 3} - set(blind))
    for layer in model.model.language_model.layers:  # what sighted heads see stays out of the residual stream
        layer.self_attn.o_proj.weight.data.unflatten(1, (4, -1))[:, sighted] = 0
    for options in ({}, {"reinforce_text": False}):
        found = gains(model, inputs, Blind(blind), layers="all", outlier_filter=False, **options)
        for gain in found.values():
            assert (gain[0] > 1).nonzero().flatten().tolist() == sighted
    free = gains(model, inputs, layers="all", outlier_filter=False)
    assert any((gain[0, blind] > 1).any() for gain in free.values())


# Layers


def test_layers_are_the_methods_own_option():
    model = deep_llava()
    with attnpatch.apply(model, "vhr") as patch:
        assert sorted(site.layer for site in patch.report().sites) == [1, 3, 4]
        assert {skip["reason"] for skip in patch.report().skipped} == {"layer not selected (layers='paper')"}
    for layers in ([0, -1], "0,-1", (0, 4)):
        with attnpatch.apply(model, "vhr", layers=layers) as patch:
            assert sorted(site.layer for site in patch.report().sites) == [0, 4]
    with pytest.raises(attnpatch.AttnPatchError, match="layer 7 does not exist"):
        attnpatch.apply(model, "vhr", layers=[7])
    with pytest.raises(attnpatch.AttnPatchError, match="alpha=-1"):
        attnpatch.apply(model, "vhr", alpha=-1.0)


# Prompts that do not come in one piece


def test_a_prompt_in_pieces_is_refused():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    length = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 2, "prefill_chunk_size": 6}
    with attnpatch.apply(model, "vhr") as patch:
        with pytest.raises(attnpatch.UnsupportedCallError, match=r"patch\.prompt"):
            model.generate(**inputs, **options)
        with patch.prompt(length), pytest.raises(attnpatch.UnsupportedCallError, match="in one piece"):
            model.generate(**inputs, **options)
        cache = new_cache(model)
        with torch.no_grad():
            model(**inputs, past_key_values=cache)
        for more in ([[5]], [[5, 6]]):  # a second turn behind the same cache
            with (
                patch.prompt(length + len(more[0])),
                pytest.raises(attnpatch.UnsupportedCallError, match="in one piece"),
            ):
                model(input_ids=torch.tensor(more), past_key_values=cache)


class ByRow(attnpatch.Method):
    """Hands every row of the batch down by itself."""

    name = "by_row"

    def attend(self, call, inner):
        return joined_rows([([row], inner(call.of_rows([row]))) for row in range(call.query.shape[0])])


def test_a_method_around_it_that_splits_the_batch_is_refused():
    model, (together, _) = zoo.build("llava"), batch("llava")
    expected = gains(model, together, layers="all")
    found = gains(model, together, ByRow(), layers="all")
    assert all(torch.equal(expected[layer], found[layer]) for layer in (0, 1))
    with (
        attnpatch.apply(model, [("vhr", {"layers": "all"}), ByRow()]),
        pytest.raises(attnpatch.UnsupportedCallError, match="put vhr last"),
    ):
        model(**together)


def test_a_static_cache_reads_padding_from_the_prepared_mask():
    model, (together, _) = zoo.build("llava"), batch("llava")
    with attnpatch.apply(model, "vhr", layers="all"):
        expected = generated_logits(model, together)[1]
        found = generated_logits(model, together, cache_implementation="static", disable_compile=True)[1]
    assert torch.allclose(found, expected, atol=1e-5)


# Calibration


def test_calibration_finds_the_layers_that_diverge_most(tmp_path):
    model, inputs = deep_llava(seed=1), doubled(batch("llava")[0])
    for number in (0, 4):
        model.model.language_model.layers[number].self_attn.v_proj.weight.data *= 0.01
    stock = generated_logits(model, inputs)
    found = attnpatch.methods()["vhr"].calibrate(model, iter([inputs, doubled(zoo.image_prompt("llava"))]))
    assert same(stock, generated_logits(model, inputs))
    assert attnpatch.patches(model) == []
    assert found["layers"] == [1, 2, 3]
    details = found["details"]
    assert details["layers"] == [0, 1, 2, 3, 4]
    assert (details["prompts"], details["top"]) == (3, 2)
    assert max(details["t_vhd"][0], details["t_vhd"][4]) < min(details["t_vhd"][1:4])
    with attnpatch.apply(model, "vhr", layers=found["layers"]):
        expected = generated_logits(model, inputs)
    file = Profile.of("vhr", model.config.text_config, found).write(tmp_path / "vhr.json")
    with attnpatch.apply(model, "vhr", profile=str(file)) as patch:
        assert sorted(site.layer for site in patch.report().sites) == found["layers"]
        assert same(expected, generated_logits(model, inputs))
    with pytest.raises(attnpatch.AttnPatchError, match="prompts with images"):
        attnpatch.methods()["vhr"].calibrate(model, [])


def test_divergences_are_those_of_the_prompts_with_an_image():
    from attnpatch.methods.vision.vhr_measured import divergences

    model = zoo.build("llava")
    together, rows = batch("llava", text_row=True)
    found = divergences(model, together, text_only="stock")
    for number, row in enumerate(rows[:2]):
        alone = divergences(model, row)
        for layer in (0, 1):
            assert found[layer].shape == (2, 4)
            assert torch.allclose(found[layer][number], alone[layer][0], atol=1e-5)
            assert (alone[layer] > 0).all()
