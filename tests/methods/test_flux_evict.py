"""flux(evict=True): layers that are sparse for the whole batch keep sink + local keys; the answers stay the same."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import attnpatch
from attnpatch import AttnPatchError, UnsupportedCallError
from attnpatch.patching.sink_cache import SinkWindowLayer
from tests import zoo
from tests.methods.flux_cases import batch, close, gates_of, prompt
from tests.snapshots import generated_logits

LENGTH = 90  # longer than what a prefill keeps: sinks, window and the tokens that may be drafts
WINDOW = {"local": 6, "sink": 2}
KEPT = 7  # 2 + 6 - 1
ARMS = {
    "sliding": {},
    "wider": {"window": 20},
    "triangle": {"last": 4},
    "stochastic": {"window": 9, "resample": False},
    "xattention": {"stride": 2, "block": 4, "threshold": 0.7},
}


def long_mixed() -> tuple[dict, torch.Tensor, torch.Tensor]:
    """A router and two long prompts with a layer that is sparse for both, and one that is mixed."""
    model = zoo.build("llama")
    prompts = [prompt(LENGTH - 9 * (seed % 2), seed)["input_ids"] for seed in range(6)]
    for seed in range(40):
        options = {"router": "untrained", "seed": seed, **WINDOW}
        with attnpatch.apply(model, "flux", **options) as patch, torch.no_grad():
            ways = []
            for ids in prompts:
                model(ids)
                ways.append([gates_of(patch)[layer][0] for layer in (0, 1)])
        for short in (1, 3, 5):
            for long in (0, 2, 4):
                pairs = list(zip(ways[short], ways[long], strict=True))
                if (False, False) in pairs and any(one != two for one, two in pairs):
                    return options, prompts[short], prompts[long]
    raise RuntimeError("no seed has a sparse layer and a mixed one")


def run(model, options, inputs, evict, **more):
    steps = {"max_new_tokens": 8, "min_new_tokens": 8, **more}
    with attnpatch.apply(model, "flux", **options, evict=evict) as patch:
        with patch.prompt(inputs["input_ids"].shape[1]):
            cache = steps.setdefault("past_key_values", DynamicCache(config=model.config))
            found = generated_logits(model, inputs, **steps)
        return *found, cache, patch.report(), dict(gates_of(patch))


def held_bytes(cache) -> int:
    return sum(x.untyped_storage().nbytes() for layer in cache.layers for x in (layer.keys, layer.values))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("kind", ["alone", "padded"])
def test_fixed_plans_equal_masking_in_less_memory(arm, kind):
    model, inputs = zoo.build("llama"), prompt(LENGTH)
    if kind == "padded":
        inputs = batch(prompt(LENGTH - 11, 1)["input_ids"], prompt(LENGTH, 2)["input_ids"])
    name = "sliding" if arm == "wider" else arm
    options = {"plan": "fs", "sparse": name, "sparse_options": ARMS[arm], **WINDOW}
    tokens, expected, masked, _, _ = run(model, options, inputs, False)
    again, found, evicted, report, _ = run(model, options, inputs, True)
    assert torch.equal(tokens, again)
    assert close(expected, found)
    assert [layer.keys.shape[2] for layer in evicted.layers] == [LENGTH + 7, KEPT]
    assert report.cache_bytes_saved == held_bytes(masked) - held_bytes(evicted) > 0


def test_a_wider_arm_keeps_its_keys_until_the_prompt_is_complete():
    model, inputs = zoo.build("llama"), prompt(LENGTH)
    options = {"plan": "ss", "sparse_options": {"window": 20}, **WINDOW}
    _, expected, _, _, _ = run(model, options, inputs, False)
    _, found, evicted, _, _ = run(model, options, inputs, True, prefill_chunk_size=40)
    assert close(expected, found)
    assert {layer.keys.shape[2] for layer in evicted.layers} == {KEPT}


def test_a_router_evicts_where_the_whole_batch_is_sparse():
    options, one, two = long_mixed()
    model, inputs = zoo.build("llama"), batch(one, two)
    tokens, expected, masked, _, gates = run(model, options, inputs, False)
    again, found, evicted, report, same_gates = run(model, options, inputs, True)
    assert gates == same_gates
    assert torch.equal(tokens, again)
    assert close(expected, found)
    for layer, cached in enumerate(evicted.layers):
        assert cached.keys.shape[2] == (LENGTH + 7 if any(gates[layer]) else KEPT)
    assert report.cache_bytes_saved == held_bytes(masked) - held_bytes(evicted) > 0
    for row, ids in enumerate((one, two)):
        alone = run(model, options, {"input_ids": ids}, True)[1]
        assert close(found[:, row], alone[:, 0])


def test_beams():
    options, one, two = long_mixed()
    model, inputs = zoo.build("llama"), batch(one, two)
    more = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    found = []
    for evict in (False, True):
        with attnpatch.apply(model, "flux", **options, evict=evict) as patch, torch.no_grad():
            found.append(model.generate(**inputs, **more, output_scores=True, return_dict_in_generate=True))
            assert evict == (patch.report().cache_bytes_saved > 0)
    assert torch.equal(found[0].sequences, found[1].sequences)
    assert close(found[0].sequences_scores, found[1].sequences_scores)


@pytest.mark.parametrize("arm", ["sliding", "stochastic"])
def test_the_models_own_cache(arm):
    model, ids = zoo.build("llama"), prompt(LENGTH)["input_ids"]
    options = {"plan": "ss", "sparse": arm, "sparse_options": ARMS[arm], **WINDOW}
    found = []
    for evict in (False, True):
        with attnpatch.apply(model, "flux", **options, evict=evict), torch.no_grad():
            out = model(ids, use_cache=True)
            cache = out.past_key_values
            assert evict == any(isinstance(layer, SinkWindowLayer) for layer in cache.layers)
            steps = [model(torch.tensor([[token]]), past_key_values=cache).logits for token in (5, 6, 7)]
            found.append(torch.cat(steps, 1))
            kept = cache.layers[0].keys.shape[2]
            assert kept == (KEPT if evict else LENGTH + 3)
    assert close(*found)


def test_a_second_turn_on_an_evicted_cache():
    model, ids = zoo.build("llama"), prompt(LENGTH + 20)["input_ids"]
    for arm in ("sliding", "stochastic"):
        options = {"plan": "ss", "sparse": arm, "sparse_options": ARMS[arm], **WINDOW, "evict": True}
        with attnpatch.apply(model, "flux", **options) as patch, torch.no_grad():
            cache = DynamicCache(config=model.config)
            model(ids[:, :LENGTH], past_key_values=cache)
            with patch.prompt(LENGTH + 20):
                if arm == "sliding":  # sees no more than what is kept
                    found = model(ids[:, LENGTH:], past_key_values=cache).logits
                    assert close(found, model(ids).logits[:, LENGTH:])
                else:
                    with pytest.raises(UnsupportedCallError, match="use evict=False"):
                        model(ids[:, LENGTH:], past_key_values=cache)


def test_what_cannot_be_evicted_is_refused(tmp_path):
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", plan="sparse", evict=True, **WINDOW):
        with pytest.raises(UnsupportedCallError, match="DynamicCache"):
            generated_logits(model, prompt(), cache_implementation="static", disable_compile=True)
        generated_logits(model, prompt(), use_cache=False)
    with attnpatch.apply(model, "flux", router="untrained", decode="dense", **WINDOW) as patch:
        patch.save_pretrained(tmp_path)
    with pytest.raises(AttnPatchError, match="use decode='sparse'"):
        attnpatch.load(model, tmp_path, evict=True)
    with attnpatch.load(model, tmp_path, evict=True, decode="sparse") as patch:
        assert patch.methods[0].evicts


def test_short_prompts_and_full_plans_drop_nothing():
    model = zoo.build("llama")
    for options in ({"plan": "full"}, {"plan": "sparse", "local": 200}):
        _, _, cache, report, _ = run(model, {**WINDOW, **options}, prompt(LENGTH), True)
        assert report.cache_bytes_saved == 0
        assert {layer.keys.shape[2] for layer in cache.layers} == {LENGTH + 7}
        assert "dropped nothing" in str(report)
