"""var: the move itself, agreement with dense attention on every family, and where its sinks come from."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.methods.vision.known import known_options
from attnpatch.methods.vision.massive import phi
from attnpatch.methods.vision.var import VAR, Sinks, redistribute
from tests import zoo
from tests.methods.vision import planted
from tests.methods.vision.dense import Dense
from tests.methods.vision.prompts import FAMILIES, needs_encoded_images
from tests.snapshots import generated_logits, same, structure

SETTINGS = {"dims": (30, 31), "tau": 1.0, "layers": "all", "rho": 0.5, "summ": 0.1, "p": 0.6}
ROW = torch.tensor([0.5, 0.1, 0.2, 0.1, 0.1])  # beginning of sequence, three image tokens, text
IS_IMAGE = torch.tensor([[False, True, True, True, False]])
IS_SINK = torch.tensor([[True, True, False, False, False]])


def moved(row=ROW, sinks=IS_SINK, image=IS_IMAGE, p=0.5, rho=0.5, summ=0.2):
    found, least = Sinks.of(sinks, image, rho), VAR(rho=rho, summ=summ).least
    new, changed = redistribute(row[None, None, None], found.shares.values, least, p=p)
    return new[0, 0, 0], bool(changed)


def test_the_hand_example():
    new, changed = moved()
    assert changed
    assert torch.allclose(new, torch.tensor([0.25, 0.05, 0.4, 0.2, 0.1]))


@pytest.mark.parametrize("more", [{"rho": 0.8}, {"summ": 0.41}, {"sinks": IS_SINK & ~IS_IMAGE}])
def test_rows_that_stay(more):
    new, changed = moved(**more)  # not enough on other image tokens, on the image; no image token is a sink
    assert torch.equal(new, ROW)
    assert not changed or "sinks" in more


def test_a_row_that_sees_no_other_image_token_stays():
    new, changed = moved(torch.tensor([0.5, 0.4, 0.0, 0.0, 0.1]), rho=0.0)
    assert not changed
    assert torch.equal(new, torch.tensor([0.5, 0.4, 0.0, 0.0, 0.1]))


def test_rows_keep_their_sum_and_stay_positive():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 4, 6, 20, generator=generator).mul(3).softmax(-1)
    sinks, image = (torch.rand(2, 16, generator=generator) < chance for chance in (0.3, 0.6))
    new, changed = redistribute(weights, Sinks.of(sinks, image, 0.2).shares.at(0, 20), VAR(summ=0.1).least, p=0.9)
    assert 0 < changed.float().mean() < 1
    assert torch.allclose(new.sum(-1), torch.ones(2, 4, 6), atol=1e-6)
    assert bool((new >= 0).all())
    assert torch.equal(new[~changed], weights[~changed])


def test_phi_of_a_lone_spike():
    state = torch.zeros(4096)
    state[9] = 250.0
    assert float(phi(state, torch.tensor([9, 11]))) == pytest.approx(64.0, rel=1e-4)
    assert float(phi(state, torch.tensor([11]))) == 0.0


def dense_var(*, p, rho, summ, dims, tau, rows="after_image", gate="row", layers="all"):
    """The sheet's formulas with loops over batch rows and heads; what is found in a prompt is kept for its decode."""
    found = {}

    def change(scores, call):
        weights = scores.softmax(-1).nan_to_num()
        if call.offset == 0:
            x = call.residual.double()
            large = x[..., list(dims)].abs().amax(-1) / (x.square().mean(-1) + 1e-6).sqrt()
            found[call.layer] = large >= tau
        new = weights.clone()
        for b in range(weights.shape[0]):
            sinks = found[call.layer][b].nonzero().flatten().tolist()
            image = call.images.mask[b].nonzero().flatten().tolist()
            low = call.key_offset
            rest = [j - low for j in image if j not in sinks and j >= low]
            every = [j - low for j in image if j >= low]
            for i in range(weights.shape[2]):
                at = call.offset + i
                before = [j for j in sinks if j in image and (gate == "layer" or j < at)]
                last = call.forward.prompt_end - 1
                wanted = at > image[0] if rows == "after_image" else at >= last
                if not before or at in image or not wanted:
                    continue
                for h in range(weights.shape[1]):
                    a = weights[b, h, i]
                    m, r = a[every].sum(), a[rest].sum()
                    if m < summ or r < rho * m or r == 0:
                        continue
                    taken = [j - low for j in sinks if j >= low]
                    new[b, h, i, taken] = (1 - p) * a[taken]
                    new[b, h, i, rest] = a[rest] + p * a[taken].sum() * a[rest] / r
        return new

    return Dense(change)


@pytest.mark.parametrize("more", [{}, {"rows": "last", "gate": "layer"}], ids=["default", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_dense_attention(family, more):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    settings = {**SETTINGS, "rho": 0.2, **more}
    with attnpatch.apply(model, dense_var(**settings)):
        expected = generated_logits(model, inputs)
    with attnpatch.apply(model, "var", **settings):
        found = generated_logits(model, inputs)
    assert torch.equal(expected[0], found[0])
    assert torch.allclose(expected[1], found[1], atol=1e-4)
    assert not torch.allclose(found[1], generated_logits(model, inputs)[1], atol=1e-5)


@pytest.mark.parametrize("options", [{"p": 0.0}, {"rho": 1.01}, {"tau": 5.6}])
def test_neutral_settings_are_stock(options):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    stock = generated_logits(model, inputs)
    with attnpatch.apply(model, "var", **{**SETTINGS, **options}):
        assert same(stock, generated_logits(model, inputs))


def two_images() -> dict:
    one = zoo.image_prompt("llava")
    ids = one["input_ids"][:, 1:]
    ids = torch.cat([one["input_ids"], ids], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(2, 3, 28, 28)}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_by_rows_it_is_causal_and_by_layers_it_is_not():
    model, inputs = zoo.build("llava"), two_images()
    first = 11  # the prompt up to the second image
    alone = {"input_ids": inputs["input_ids"][:, :first], "pixel_values": inputs["pixel_values"][:1]}

    class OnlyLater(VAR):
        """Sinks are the first token and what is found behind the first image."""

        def _sinks(self, call):
            tokens = super()._sinks(call).tokens.clone()
            tokens[:, 1:first], tokens[:, 0] = False, True
            return Sinks.of(tokens, call.images.keys(0, tokens.shape[1]), self.config.rho)

    for gate, alike in (("row", True), ("layer", False)):
        settings = {**SETTINGS, "rho": 0.0, "summ": 0.0, "gate": gate}
        with attnpatch.apply(model, OnlyLater(**settings)):
            found = logits(model, inputs)[:, :first]
        assert torch.allclose(found, logits(model, alone), atol=1e-5) is alike
    with attnpatch.apply(model, "var", **{**SETTINGS, "rho": 0.0, "summ": 0.0}):
        assert torch.allclose(logits(model, inputs)[:, :first], logits(model, alone), atol=1e-5)


def test_a_decode_row_is_edited_as_a_prefill_row():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    length = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([[31, 32]])], 1)
    with attnpatch.apply(model, "var", **SETTINGS) as patch, patch.prompt(length), torch.no_grad():
        whole = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits
        cached = model(**inputs, use_cache=True).past_key_values
        steps = [model(input_ids=ids[:, [at]], past_key_values=cached).logits for at in (length, length + 1)]
    assert torch.allclose(torch.cat(steps, 1), whole[:, length:], atol=1e-5)


def test_a_planted_sink_gives_to_the_other_image_tokens():
    model, inputs = planted.build(), zoo.image_prompt("llava")
    layers = model.model.language_model.layers
    options = {"p": 0.5, "rho": 0.0, "summ": 0.0, "dims": planted.DIMS, "layers": (4,)}
    model.set_attn_implementation("eager")
    with planted.planted(layers, [0, 2]), torch.no_grad():
        stock = model(**inputs, output_attentions=True).attentions[4]
        with attnpatch.apply(model, "var", **options):
            new = model(**inputs, output_attentions=True).attentions[4]
    text = slice(5, None)  # behind the four image tokens 1..4
    assert torch.equal(new[:, :, :5], stock[:, :, :5])
    before, after = stock[:, :, text], new[:, :, text]
    assert torch.allclose(after[..., [0, 2]], before[..., [0, 2]] / 2, atol=1e-6)
    rest = before[..., [1, 3, 4]]
    more = before[..., [0, 2]].sum(-1, keepdim=True) / 2
    assert torch.allclose(after[..., [1, 3, 4]], rest + more * rest / rest.sum(-1, keepdim=True), atol=1e-6)
    assert torch.allclose(after[..., 5:], before[..., 5:], atol=1e-7)


def test_a_layer_whose_only_sink_is_the_first_token_is_stock():
    model, inputs = planted.build(), zoo.image_prompt("llava")
    with planted.planted(model.model.language_model.layers, [0]):
        stock = generated_logits(model, inputs)
        with attnpatch.apply(model, "var", dims=planted.DIMS, rho=0.0, summ=0.0):
            assert same(stock, generated_logits(model, inputs))


# Where the dimensions come from


def test_known_models_are_recognised_by_their_text_config():
    import transformers as tf

    assert known_options("var", tf.LlamaConfig())["dims"] == (1415, 2533)
    assert known_options("var", tf.LlamaConfig(vocab_size=32064))["dims"] == (1415, 2533)
    large = tf.LlamaConfig(hidden_size=5120, num_hidden_layers=40, num_attention_heads=40)
    assert known_options("var", large)["dims"] == (2100, 4743)
    assert known_options("var", tf.LlamaConfig(vocab_size=128256, num_key_value_heads=8)) == {}
    assert known_options("vhr", tf.MistralConfig()) == {}


def test_unknown_models_are_measured_and_told_so():
    model = planted.build()
    before = structure(model)
    with planted.planted(model.model.language_model.layers, [0]):
        with pytest.warns(UserWarning, match=r"var takes dims=\[[37], [37]\].*attnpatch calibrate var MODEL"):
            patch = attnpatch.apply(model, "var")
        assert set(patch.methods[0].dims.tolist()) == set(planted.DIMS)
        patch.remove()
    assert structure(model) == before


def test_measuring_runs_beside_another_patch():
    model = planted.build()
    with (
        planted.planted(model.model.language_model.layers, [0]),
        attnpatch.apply(model, "pai"),
        pytest.warns(UserWarning, match="var takes dims"),
    ):
        attnpatch.apply(model, "var").remove()


def test_without_sinks_it_refuses_with_the_command():
    model = zoo.build("llava")
    before = structure(model)
    with pytest.raises(attnpatch.AttnPatchError, match=r"5\.7 is the most.*attnpatch calibrate var.*dims="):
        attnpatch.apply(model, "var", layers="all")
    assert structure(model) == before


@pytest.mark.parametrize(
    "options, words",
    [
        ({"dims": [32]}, "0 to 31"),
        ({"dims": [1], "layers": None}, "first two layers and the last"),
        ({"p": 1.5}, "less than or equal to 1"),
        ({"gate": "head"}, "row"),
    ],
)
def test_options_that_cannot_be(options, words):
    model = zoo.build("llava")
    with pytest.raises(attnpatch.AttnPatchError, match=words):
        attnpatch.apply(model, ("var", {"layers": "all", **options}))


def test_a_prompt_in_pieces():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    needs_encoded_images(model)
    length, pieces = inputs["input_ids"].shape[1], {"prefill_chunk_size": 6}
    with attnpatch.apply(model, "var", **SETTINGS) as patch, patch.prompt(length):
        whole, chunked = generated_logits(model, inputs), generated_logits(model, inputs, **pieces)
        assert torch.allclose(whole[1], chunked[1], atol=1e-5)


def test_pieces_that_a_gate_cannot_judge_and_a_cache_it_has_not_seen():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with (
        attnpatch.apply(model, "var", **{**SETTINGS, "gate": "layer"}) as patch,
        patch.prompt(inputs["input_ids"].shape[1]),
        pytest.raises(attnpatch.UnsupportedCallError, match="gate='row'"),
    ):
        generated_logits(model, inputs, prefill_chunk_size=6)
    with attnpatch.apply(model, "pai", first_layer=0), torch.no_grad():
        cache = model(**inputs).past_key_values
        with (
            attnpatch.apply(model, "var", **SETTINGS),
            pytest.raises(attnpatch.UnsupportedCallError, match="Start with a new cache"),
        ):
            model(input_ids=torch.tensor([[31]]), past_key_values=cache)
