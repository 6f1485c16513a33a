"""flux's two ways: full is the stock model, sparse is the arm; which arms there are, and both branches at once."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch import AttnPatchError, UnsupportedCallError
from tests import zoo
from tests.methods.flux_cases import WINDOW, batch, close, generated, logits, positions, prompt
from tests.methods.masks import one_layer, sliding_mask, tokens
from tests.snapshots import generated_logits, same, structure

FAMILIES = ["llama", "qwen3", "gemma3_text", "gpt_oss", "mistral"]
SMALL = {
    "sliding": {},
    "triangle": {"last": 3},
    "stochastic": {"window": 2, "resample": False},
    "xattention": {"stride": 1, "block": 1, "threshold": 0.5},
}
ALONE = {**SMALL, "sliding": {"window": 4, "sink": 1}, "triangle": {"last": 3, "window": 4, "sink": 1}}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_full_is_stock_bit_for_bit(family):
    model, inputs = zoo.build(family), zoo.text_batch()
    stock = generated_logits(model, inputs)
    for options in ({"plan": "full"}, {"plan": "full", "decode": "dense", "sparse": "triangle"}):
        assert same(stock, generated(model, {**options, **WINDOW}, inputs)[:2])


@pytest.mark.parametrize("family", FAMILIES)
def test_all_sparse_is_the_sliding_window(family):
    model, inputs = zoo.build(family), zoo.text_batch()
    alone = generated(model, {"window": 4, "sink": 1}, inputs, method="sliding")[:2]
    assert same(alone, generated(model, {"plan": "sparse", **WINDOW}, inputs)[:2])


@pytest.mark.parametrize("arm", SMALL)
def test_all_sparse_is_the_arm_in_the_prompt(arm):
    model, inputs = zoo.build("llama"), zoo.text_batch()
    options = {"plan": "sparse", "sparse": arm, "sparse_options": SMALL[arm], **WINDOW}
    mask = inputs["attention_mask"]
    inputs = {**inputs, "position_ids": positions(mask)}
    with attnpatch.apply(model, arm, **ALONE[arm]):
        alone = logits(model, **inputs)
    with attnpatch.apply(model, "flux", **options) as patch:
        assert torch.equal(alone, logits(model, **inputs))
        assert patch.methods[0].arm.name == arm
        assert patch.report().omega == 1


@pytest.mark.parametrize("arm", SMALL)
@pytest.mark.parametrize("decode", ["sparse", "dense"])
def test_generated_tokens_see_the_window_or_all(arm, decode):
    """The prompt's keys come from the arm; the tokens behind it follow `decode` whatever the arm."""
    model, ids = one_layer(), tokens(20)
    options = {"plan": "sparse", "sparse": arm, "sparse_options": SMALL[arm], "decode": decode, **WINDOW}
    mask = torch.ones(20, 20, dtype=torch.bool).tril() if decode == "dense" else sliding_mask(20, 4, 1)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask[None, None]).logits[:, 12:]  # one layer: rows do not mix
        with attnpatch.apply(model, "flux", **options) as patch:
            out = model(ids[:, :12], use_cache=True)
            found = []
            for at in range(12, 20):
                out = model(ids[:, at : at + 1], past_key_values=out.past_key_values)
                found.append(out.logits)
            assert close(torch.cat(found, 1), expected)
            with patch.prompt(12):  # the whole text in one forward: both phases in one call
                assert close(model(ids, use_cache=False).logits[:, 12:], expected)
            with patch.prompt(1):  # a prompt of one token sees itself alone
                stock = model(ids[:, :1]).logits
                assert close(model(ids, use_cache=False).logits[:, :1], stock)


def test_the_last_rows_of_the_triangle_are_dense():
    model, ids = one_layer(), tokens(20)
    options = {"plan": "sparse", "sparse": "triangle", "sparse_options": {"last": 5}, **WINDOW}
    with attnpatch.apply(model, "flux", **options):
        found = logits(model, input_ids=ids)
    stock = logits(model, input_ids=ids)
    assert close(found[:, -5:], stock[:, -5:])
    assert not close(found[:, :-5], stock[:, :-5])


def test_short_prompts_are_stock():
    model = zoo.build("llama")
    stock = generated_logits(model, prompt())
    with attnpatch.apply(model, "flux", plan="sparse"):
        assert same(stock, generated_logits(model, prompt()))


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_fixed_plans_take_a_prompt_in_pieces(family):
    model, inputs = zoo.build(family), zoo.text_batch()
    options = {"plan": "random:0.5", **WINDOW}
    whole = generated(model, options, inputs)
    pieces = generated(model, options, inputs, prefill_chunk_size=5)
    assert torch.equal(whole[0], pieces[0])
    assert close(whole[1], pieces[1])
    # An arm that is another one for generated tokens has to know which they are.
    with (
        attnpatch.apply(model, "flux", plan="sparse", decode="dense", **WINDOW),
        pytest.raises(UnsupportedCallError, match=r"patch\.prompt"),
    ):
        generated_logits(model, inputs, prefill_chunk_size=5)


def test_a_sparse_layer_never_runs_the_dense_branch():
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", plan="fs", **WINDOW) as patch:
        logits(model, **prompt())
        full, sparse = patch.report().sites
    assert full.backends == {"sdpa": 1}
    assert "sdpa" not in sparse.backends
    assert full.mean_keys == pytest.approx(6.5)
    assert sparse.mean_keys == pytest.approx(sliding_mask(12, 4, 1).sum().item() / 12)


@pytest.mark.parametrize(
    "options, match",
    [
        ({}, "neither was"),
        ({"plan": "full", "router": "untrained"}, "both were"),
        ({"plan": "fsf"}, "names 3 layers, but 2 are patched"),
        ({"plan": [1, 0, 1]}, "names 3 layers, but 2 are patched"),
        ({"plan": [1, 2]}, "1 .full. and 0 .sparse. only"),
        ({"plan": []}, "1 .full. and 0 .sparse. only"),
        ({"plan": ""}, "unknown plan ''"),
        ({"plan": "half"}, "unknown plan 'half'"),
        ({"plan": "ff:0.5"}, "unknown plan 'ff:0.5'"),
        ({"plan": "random:1.5"}, "must lie in 0..1, got 1.5"),
        ({"plan": "random:-0.1"}, "must lie in 0..1"),
        ({"plan": "random:nan"}, "must lie in 0..1"),
        ({"plan": "random:half"}, "'half' in plan 'random:half' is no number"),
        ({"plan": "entropy:0.5"}, "give prompts="),
        ({"plan": "calibrate"}, "give prompts="),
        ({"plan": "calibrate", "prompts": []}, "two or more token ids"),
        ({"plan": "entropy", "prompts": [[5]]}, "two or more token ids"),
        ({"plan": "entropy", "prompts": [[5, 400]]}, r"from 5 to 400, and the model knows 0\.\.127"),
        ({"plan": "entropy", "prompts": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"plan": "full", "sparse": "slidin"}, "Did you mean 'sliding'"),
        ({"plan": "full", "sparse": "stock"}, "does not replace keys"),
        ({"plan": "full", "sparse": "flux"}, "is no sparse arm"),
        ({"plan": "full", "sparse_options": {"windw": 3}}, "unknown option 'windw'. Did you mean 'window'"),
        ({"plan": "full", "sparse_options": {"evict": True}}, r"write flux\(evict=True\)"),
        ({"plan": "full", "evict": True, "decode": "dense"}, "use decode='sparse'"),
        ({"plan": "full", "local": 0}, "greater than or equal to 1"),
        ({"plan": "full", "rooter": "x"}, "Did you mean 'router'"),
    ],
)
def test_bad_options_change_nothing(options, match):
    model = zoo.build("llama")
    before = structure(model)
    with pytest.raises(AttnPatchError, match=match):
        attnpatch.apply(model, "flux", **options)
    assert structure(model) == before


# Both branches at once, for training


@pytest.mark.parametrize("share, same_as", [(1.0, "full"), (0.0, "sparse")])
def test_a_whole_share_is_one_branch(share, same_as):
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", plan=same_as, **WINDOW):
        expected = logits(model, **prompt())
    with attnpatch.apply(model, "flux", router="untrained", **WINDOW) as patch:
        flux = patch.methods[0]
        with flux.blended(lambda call, found: torch.full((found.shape[0],), share)) as same_flux:
            assert same_flux is flux
            assert torch.equal(expected, logits(model, **prompt()))
        with flux.blended(lambda call, found: torch.full((found.shape[0],), 0.5)):
            assert not close(expected, logits(model, **prompt()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_routers(checkpointing):
    model = zoo.build("llama").train().requires_grad_(False)
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    inputs = batch(prompt(9, 1)["input_ids"], prompt(12, 2)["input_ids"])
    with attnpatch.apply(model, "flux", router="untrained", **WINDOW) as patch:
        flux = patch.methods[0]
        with flux.blended(lambda call, found: found.softmax(-1)[:, 1]):
            loss = model(**inputs, use_cache=False).logits.square().mean()
            loss.backward()
        found = torch.cat([one.grad.flatten() for one in flux.routers.parameters()])
        assert all(one.grad.norm() > 0 for one in flux.routers.parameters())
        direction = {name: one.grad.clone() for name, one in flux.routers.named_parameters()}
        step = 1e-3 / found.norm()
        with torch.no_grad():
            for name, one in flux.routers.named_parameters():
                one += step * direction[name]
        with flux.blended(lambda call, logits: logits.softmax(-1)[:, 1]), torch.no_grad():
            higher = model(**inputs, use_cache=False).logits.square().mean()
    assert float(higher - loss.detach()) == pytest.approx(float(step * found.norm() ** 2), rel=0.1)


def test_blending_needs_routers():
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", plan="full") as patch:
        flux = patch.methods[0]
        with pytest.raises(AttnPatchError, match="router='untrained'"), flux.blended(lambda call, found: found):
            pass
