"""sliding(evict=True): the same answers from a smaller cache, or a refusal; nothing in between."""

from __future__ import annotations

import copy
import functools
import gc
import weakref

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

import attnpatch
from attnpatch import UnsupportedCallError
from attnpatch.kernels import Causal, Window
from attnpatch.patching.sink_cache import DRAFT, Layout, SinkWindowLayer
from tests import zoo
from tests.snapshots import generated_logits, structure

FAMILIES = ["llama", "qwen3", "mistral", "gemma3_text", "gpt_oss", "deepseek_v3"]
WINDOW, SINK = 6, 2
LENGTH = 90  # longer than what a prefill keeps: sinks, window and the tokens that may be drafts
KEPT = SINK + WINDOW - 1


def prompt(length: int = LENGTH, seed: int = 3) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 100, (1, length), generator=torch.Generator().manual_seed(seed))}


def padded(*starts: int, length: int = LENGTH) -> dict[str, torch.Tensor]:
    """One row per start, left-padded up to it."""
    ids = torch.cat([prompt(length, seed)["input_ids"] for seed in range(len(starts))])
    mask = torch.ones_like(ids)
    for row, start in enumerate(starts):
        ids[row, :start], mask[row, :start] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


INPUTS = {
    "alone": prompt(),
    "padded": padded(0, 9, LENGTH - 10, LENGTH - 1),
    "all padded": padded(30, 31),
}


def sliding(model, evict: bool = True, **options):
    return attnpatch.apply(model, "sliding", **{"window": WINDOW, "sink": SINK, "evict": evict} | options)


def close(one: torch.Tensor, two: torch.Tensor) -> bool:
    return torch.allclose(one, two, atol=1e-5, rtol=0)


def run(model, evict: bool, inputs: dict, steps: int = 8, **options):
    """Sequences, logits `[tokens, B, V]`, cache and report of a greedy generation under the patch."""
    with sliding(model, evict) as patch, patch.prompt(inputs["input_ids"].shape[1]):
        cache = options.setdefault("past_key_values", DynamicCache(config=model.config))
        options |= {"max_new_tokens": steps, "min_new_tokens": steps}
        return *generated_logits(model, inputs, **options), cache, patch.report()


@functools.cache
def masked_run(family: str, kind: str):
    return run(zoo.build(family), False, INPUTS[kind])


def held_bytes(cache: DynamicCache) -> int:
    """What the cache keeps in memory, views counted as what they keep alive."""
    return sum(x.untyped_storage().nbytes() for layer in cache.layers for x in (layer.keys, layer.values))


def full_layers(cache: DynamicCache) -> list[int]:
    return [index for index, layer in enumerate(cache.layers) if not isinstance(layer, DynamicSlidingWindowLayer)]


def step(model, ids: torch.Tensor, cache, **options) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, past_key_values=cache, **options).logits


# The same answers


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_equals_masking_in_less_memory(family, kind):
    tokens, logits, masked, _ = masked_run(family, kind)
    again, found, evicted, report = run(zoo.build(family), True, INPUTS[kind])
    assert torch.equal(tokens, again)
    assert close(logits, found)
    full = full_layers(masked)
    for index, layer in enumerate(evicted.layers):
        if index in full:
            assert layer.get_seq_length() == masked.layers[index].get_seq_length() == LENGTH + 7
            assert layer.keys.shape[2] == layer.values.shape[2] == KEPT
        else:
            assert type(layer) is DynamicSlidingWindowLayer
    saved = held_bytes(masked) - held_bytes(evicted)
    assert report.cache_bytes_saved == report.to_dict()["cache_bytes_saved"] == saved
    assert (saved > 0) == bool(full)
    assert ("out of the cache" in str(report)) == bool(full)


@pytest.mark.parametrize("starts", [(0,), (0, 9), (0, LENGTH - 10, LENGTH - 1)])
def test_the_right_keys_stay(starts):
    model, inputs = zoo.build("llama"), padded(*starts)
    _, _, masked, _ = run(model, False, inputs)
    _, _, evicted, _ = run(model, True, inputs)
    layer, all_keys = evicted.layers[1], masked.layers[1].keys
    end = LENGTH + 7
    spans = [(start, end) for start in starts]
    positions = layer.layout.positions(spans, end)
    for row, start in enumerate(starts):
        wanted = {*range(start, min(start + SINK, end)), *range(end - WINDOW + 1, end)}
        assert wanted <= set(positions[row].tolist())
        for column, position in enumerate(positions[row].tolist()):
            if position >= start:
                assert close(layer.keys[row, :, column], all_keys[row, :, position])


@pytest.mark.parametrize("chunk", [7, 80])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_chunked_prefill(family, kind, chunk):
    tokens, logits, _, _ = masked_run(family, kind)
    again, found, cache, _ = run(zoo.build(family), True, INPUTS[kind], prefill_chunk_size=chunk)
    assert torch.equal(tokens, again)
    assert close(logits, found)
    assert {cache.layers[index].keys.shape[2] for index in full_layers(cache)} == {KEPT}


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "deepseek_v3"])
def test_beams(family):
    model, inputs = zoo.build(family), padded(0, 9, LENGTH - 1)
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 8, "min_new_tokens": 8}
    options |= {"output_scores": True, "return_dict_in_generate": True}
    found = []
    for evict in (False, True):
        with sliding(model, evict) as patch, torch.no_grad():
            found.append(model.generate(**inputs, **options))
            assert evict == (patch.report().cache_bytes_saved > 0)
    assert torch.equal(found[0].sequences, found[1].sequences)
    assert close(found[0].sequences_scores, found[1].sequences_scores)
    assert found[0].beam_indices[:, :7].diff(dim=1).any(), "no beam was ever permuted"


def test_rows_may_be_picked_and_repeated():
    model, inputs = zoo.build("llama"), padded(0, 9, LENGTH - 10)
    ids, mask = inputs["input_ids"], torch.cat([inputs["attention_mask"], torch.ones(3, 2, dtype=torch.long)], 1)
    with sliding(model):
        cache = DynamicCache(config=model.config)
        for part in (slice(0, LENGTH - 2), slice(LENGTH - 2, LENGTH - 1)):
            step(model, ids[:, part], cache, attention_mask=mask[:, : part.stop])
        expected = step(model, ids[:, -1:], copy.deepcopy(cache), attention_mask=mask[:, :LENGTH])
        picked, repeated, reordered = (copy.deepcopy(cache) for _ in range(3))
        rows = torch.tensor([2, 0])
        picked.batch_select_indices(rows)
        assert close(expected[rows], step(model, ids[rows, -1:], picked, attention_mask=mask[rows, :LENGTH]))
        rows = torch.tensor([2, 2, 1])
        reordered.reorder_cache(rows)
        assert close(expected[rows], step(model, ids[rows, -1:], reordered, attention_mask=mask[rows, :LENGTH]))
        rows = torch.arange(3).repeat_interleave(2)
        repeated.batch_repeat_interleave(2)
        assert close(expected[rows], step(model, ids[rows, -1:], repeated, attention_mask=mask[rows, :LENGTH]))


@pytest.mark.parametrize("how", ["assistant", "prompt lookup"])
def test_drafted_tokens(how):
    model, inputs = zoo.build("llama"), {"input_ids": prompt(45)["input_ids"].repeat(1, 2)}
    torch.manual_seed(5)
    assistant = zoo.build("llama")
    assistant.lm_head.weight.data += 0.02 * torch.randn_like(assistant.lm_head.weight)  # right at times, not always
    drafts = {"assistant_model": assistant} if how == "assistant" else {"prompt_lookup_num_tokens": 5}
    options = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
    with sliding(model, False), torch.no_grad():
        expected = model.generate(**inputs, **options)
    cropped = []
    with sliding(model) as patch, torch.no_grad():
        crop, SinkWindowLayer.crop = SinkWindowLayer.crop, lambda self, n: (cropped.append(n), crop(self, n))
        try:
            found = model.generate(**inputs, **options, **drafts)
        finally:
            SinkWindowLayer.crop = crop
        assert patch.report().cache_bytes_saved > 0
    assert torch.equal(expected, found)
    assert min(cropped) < 0, "nothing was taken back"


def test_tokens_taken_back_and_put_again():
    model, ids = zoo.build("llama"), prompt(LENGTH + 20)["input_ids"]
    with sliding(model):
        cache = DynamicCache(config=model.config)
        expected = step(model, ids, DynamicCache(config=model.config))
        step(model, ids[:, :LENGTH], cache)
        cache.crop(-DRAFT)
        assert cache.get_seq_length() == LENGTH - DRAFT
        assert close(expected[:, LENGTH - DRAFT : LENGTH], step(model, ids[:, LENGTH - DRAFT : LENGTH], cache))
        cache.crop(0)
        assert close(expected[:, LENGTH:], step(model, ids[:, LENGTH:], cache))
        step(model, ids[:, :1], cache)
        with pytest.raises(UnsupportedCallError, match="evict=False"):
            cache.crop(-1)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_a_cache_that_the_model_makes(family):
    model, ids = zoo.build(family), prompt(LENGTH + 2)["input_ids"]
    with sliding(model) as patch, torch.no_grad():
        expected = model(input_ids=ids).logits
        out = model(input_ids=ids[:, :LENGTH], use_cache=True)
        layer = out.past_key_values.layers[-1]
        assert layer.keys.shape[2] == KEPT + DRAFT
        assert patch.report().cache_bytes_saved > 0
        assert close(expected[:, LENGTH:], step(model, ids[:, LENGTH:], out.past_key_values))
        as_tuple = model(input_ids=ids[:, :LENGTH], use_cache=True, return_dict=False)
        cache = next(part for part in as_tuple if isinstance(part, DynamicCache))
        assert close(expected[:, LENGTH:], step(model, ids[:, LENGTH:], cache))
        assert cache.layers[-1].keys.shape[2] == KEPT + 1


def test_a_cache_without_a_config_grows_layer_by_layer():
    model, inputs = zoo.build("llama"), prompt()
    tokens, logits, _, _ = run(model, False, inputs)
    again, found, cache, _ = run(model, True, inputs, past_key_values=DynamicCache())
    assert torch.equal(tokens, again)
    assert close(logits, found)
    assert {type(layer) for layer in cache.layers} == {SinkWindowLayer}


def test_layers_with_a_window_of_their_own_are_left_alone():
    tokens, logits, _, _ = masked_run("mistral", "alone")
    again, found, cache, report = run(zoo.build("mistral"), True, INPUTS["alone"], past_key_values=DynamicCache())
    assert {site.kind for site in report.sites} == {"sliding"}
    assert torch.equal(tokens, again)
    assert close(logits, found)
    assert {type(layer) for layer in cache.layers} == {DynamicLayer}


def test_prompts_back_to_back_and_a_cache_used_again():
    model, first, second = zoo.build("llama"), prompt(), prompt(12, 4)
    expected = [run(model, False, inputs)[:2] for inputs in (first, second)]
    with sliding(model) as patch:
        cache = DynamicCache(config=model.config)
        options = {"max_new_tokens": 8, "min_new_tokens": 8, "past_key_values": cache}
        for inputs, (tokens, logits) in zip((first, second), expected, strict=True):
            again, found = generated_logits(model, inputs, **options)
            assert torch.equal(tokens, again)
            assert close(logits, found)
            cache.reset()
            assert cache.get_seq_length() == 0
        assert patch.report().cache_bytes_saved > 0
        step(model, prompt(3)["input_ids"], DynamicCache(config=model.config))
        assert patch.report().cache_bytes_saved == 0, "the last call had nothing to drop"
        assert "dropped nothing" in str(patch.report())
    with sliding(model, sink=SINK + 3, window=WINDOW + 3):
        ids = prompt(LENGTH + 1)["input_ids"]
        expected = step(model, ids, DynamicCache(config=model.config))[:, -1:]
        step(model, ids[:, :LENGTH], cache)
        assert close(expected, step(model, ids[:, LENGTH:], cache)), "an emptied cache serves other settings"
        cache.reset()
    stock = generated_logits(model, second)
    assert torch.equal(stock[1], generated_logits(model, second, past_key_values=cache)[1]), "empty again, so stock"


def test_a_second_turn():
    model, ids = zoo.build("qwen3"), prompt(LENGTH + 30)["input_ids"]
    answers = []
    for evict in (False, True):
        with sliding(model, evict):
            cache = DynamicCache(config=model.config)
            first = step(model, ids[:, :LENGTH], cache)
            answers.append(torch.cat([first, step(model, ids[:, LENGTH:], cache)], 1))
    assert close(*answers)


def test_a_copy_of_the_cache_goes_its_own_way():
    model, ids = zoo.build("llama"), prompt(LENGTH + 1)["input_ids"]
    with sliding(model):
        cache = DynamicCache(config=model.config)
        step(model, ids[:, :LENGTH], cache)
        twin = copy.deepcopy(cache)
        expected = step(model, ids[:, LENGTH:], cache)
        assert twin.get_seq_length() == LENGTH
        assert torch.equal(expected, step(model, ids[:, LENGTH:], twin))


def test_output_attentions_are_those_of_masking():
    model, inputs = zoo.build("llama", attn_implementation="eager"), padded(0, 9, LENGTH - 1)
    found = []
    for evict in (False, True):
        with sliding(model, evict), torch.no_grad():
            cache = DynamicCache(config=model.config)
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            step(model, ids[:, : LENGTH - 3], cache, attention_mask=mask[:, :-3])
            out = model(input_ids=ids[:, -3:], attention_mask=mask, past_key_values=cache, output_attentions=True)
            found.append(torch.stack(out.attentions))
    assert found[0].shape[-1] == LENGTH
    assert close(*found)


def test_bfloat16_and_gradients():
    model, ids = zoo.build("llama"), prompt(LENGTH + 2)["input_ids"]
    gradients = []
    for evict in (False, True):
        with sliding(model, evict):
            model.zero_grad()
            cache = DynamicCache(config=model.config)
            model(input_ids=ids[:, :LENGTH], past_key_values=cache)
            model(input_ids=ids[:, LENGTH:], past_key_values=cache).logits.square().sum().backward()
            gradients.append(model.model.layers[0].self_attn.k_proj.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)
    model.to(torch.bfloat16)
    with sliding(model):
        cache = DynamicCache(config=model.config)
        step(model, ids, cache)
        assert cache.layers[0].keys.dtype == torch.bfloat16


# Memory


def test_memory_falls_layer_by_layer_in_prefill():
    model, seen = zoo.build("llama"), []
    cache = DynamicCache(config=model.config)

    def look(*_):
        seen.append(cache.layers[0].keys.untyped_storage().nbytes())

    handle = model.model.layers[1].register_forward_pre_hook(look)
    with sliding(model):
        step(model, prompt()["input_ids"], cache)
    handle.remove()
    token = 2 * 8 * 4  # two key heads of eight float32
    assert seen == [(KEPT + DRAFT) * token]
    assert held_bytes(cache) == 2 * 2 * (KEPT + DRAFT) * token


def test_nothing_is_dropped_before_there_is_something_to_drop():
    model = zoo.build("llama")
    with sliding(model, window=LENGTH):
        cache = DynamicCache(config=model.config)
        step(model, prompt()["input_ids"], cache)
        assert {type(layer) for layer in cache.layers} == {DynamicLayer}


@pytest.mark.parametrize("fails", [False, True])
def test_the_cache_dies_with_its_sequence(fails):
    model, seen = zoo.build("llama"), []

    def look(module, args, kwargs):
        cache = kwargs["past_key_values"]
        seen.extend([weakref.ref(cache), *(weakref.ref(layer) for layer in cache.layers)])
        if fails and cache.get_seq_length() > LENGTH:
            raise InterruptedError

    handle = model.model.layers[1].register_forward_pre_hook(look, with_kwargs=True)
    with sliding(model) as patch:
        try:
            generated_logits(model, prompt())
        except InterruptedError:
            assert fails
        gc.collect()
        assert len(seen) >= 6
        assert [ref() for ref in seen if ref() is not None] == []
        assert len(patch._installation.states) == 0
    handle.remove()


def test_a_forward_kept_alive_holds_no_cache():
    model, kept = zoo.build("llama"), []

    def keep(module, args, kwargs):
        kept.append(kwargs["attnpatch_forward"])

    model.model.layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    with sliding(model), torch.no_grad():
        out = model(**prompt())
        step(model, prompt(1)["input_ids"], out.past_key_values)
    assert len(kept) == 2
    assert all(f.cache is None and not f.held and not f.evictions for f in kept)


# Refusals


def encoder_decoder(config):
    return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))


def offloading(config):
    cache = DynamicCache(config=config)
    cache.offloading = True
    return cache


def foreign_layer(config):
    class QuantizedLayer(DynamicLayer):
        pass

    cache = DynamicCache(config=config)
    cache.layers[1] = QuantizedLayer()
    return cache


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda config: StaticCache(config, max_cache_len=100), "StaticCache"),
        (encoder_decoder, "EncoderDecoderCache"),
        (offloading, "offloading DynamicCache"),
        (foreign_layer, "QuantizedLayer"),
    ],
)
def test_other_caches_are_refused_before_anything_is_changed(make, names):
    model = zoo.build("llama")
    cache = make(model.config)
    with sliding(model), pytest.raises(UnsupportedCallError, match=f"{names}.*evict=False"):
        step(model, prompt()["input_ids"], cache)
    assert cache.get_seq_length() == 0


def test_layers_that_read_the_cache_of_others_are_refused():
    model = zoo.build("llama")
    model.config.kv_sharing_modes = ["store", "reuse"]
    before = structure(model)
    with pytest.raises(attnpatch.UnsupportedModelError, match="evict=False"):
        sliding(model)
    assert structure(model) == before
    sliding(model, evict=False).remove()


def used_cache(model) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    for part in (slice(0, LENGTH - 1), slice(LENGTH - 1, LENGTH)):
        step(model, prompt()["input_ids"][:, part], cache)
    return cache


@pytest.mark.parametrize("how", ["removed", "disabled", "switched off", "another method", "a wider window"])
def test_what_cannot_read_an_evicted_cache_refuses(how):
    model = zoo.build("llama")
    patch = sliding(model)
    cache, token = used_cache(model), prompt(1)["input_ids"]
    refused = pytest.raises(UnsupportedCallError, match=r"has dropped|holds the first 2")
    if how == "disabled":
        with patch.disabled(), refused:
            step(model, token, cache)
        assert cache.get_seq_length() == LENGTH, "nothing was changed"
        step(model, token, cache)
        return
    if how == "switched off":
        model.set_attn_implementation("sdpa")
        with refused, pytest.warns(UserWarning, match="no effect"):
            step(model, token, cache)
        return
    patch.remove()
    if how == "removed":
        with refused:
            step(model, token, cache)
        return
    following = attnpatch.apply(model, "stock") if how == "another method" else sliding(model, window=WINDOW + 1)
    with following, refused:
        step(model, token, cache)


@pytest.mark.parametrize("reads", ["all keys", "key columns", "causal", "reach"])
def test_a_method_that_reads_what_it_dropped_is_refused(reads):
    class Careless(attnpatch.Method):
        evicts = True

        def attend(self, call, inner):
            rules = {"causal": Causal(), "key columns": Window(3), "reach": Window(3, reach=4)}
            if reads == "key columns":
                assert call.key_offset == 0
            output = call.attend(rules[reads]) if reads in rules else inner(call)
            call.evict(first=SINK, last=WINDOW)
            return output

    model = zoo.build("llama")
    with attnpatch.apply(model, Careless()):
        cache = DynamicCache(config=model.config)
        step(model, prompt()["input_ids"], cache)
        with pytest.raises(UnsupportedCallError, match=r"dropped|look beyond"):
            step(model, prompt(1)["input_ids"], cache)


def test_a_patch_removed_between_the_announcement_and_the_update():
    model = zoo.build("llama")
    patch = sliding(model)
    cache = used_cache(model)

    def fail(*_):
        raise InterruptedError

    handle = model.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(InterruptedError):
        step(model, prompt(1)["input_ids"], cache)
    handle.remove()
    patch.remove()
    with pytest.raises(UnsupportedCallError, match="has dropped"):
        step(model, prompt(1)["input_ids"], cache)


def test_the_same_or_a_narrower_method_goes_on():
    model, ids = zoo.build("llama"), prompt(LENGTH + 1)["input_ids"]
    with sliding(model):
        cache = used_cache(model)
        twin = copy.deepcopy(cache)
        expected = step(model, ids[:, LENGTH:], copy.deepcopy(cache))
    with sliding(model):
        assert torch.equal(expected, step(model, ids[:, LENGTH:], cache))
    with sliding(model, window=3, sink=1):
        step(model, ids[:, LENGTH:], twin)
        assert {layer.keys.shape[2] for layer in twin.layers} == {SINK + 3 - 1}


def test_a_mask_that_changes_its_mind_is_refused():
    model, inputs = zoo.build("llama"), padded(0, 9)
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    with sliding(model):
        cache = DynamicCache(config=model.config)
        step(model, inputs["input_ids"], cache, attention_mask=mask[:, :-1])
        for other in (None, torch.ones_like(mask), mask.flip(0)):
            with pytest.raises(UnsupportedCallError, match="attention_mask"):
                step(model, inputs["input_ids"][:, :1], copy.deepcopy(cache), attention_mask=other)
        step(model, inputs["input_ids"][:, :1], cache, attention_mask=mask)


def test_evict_refuses_dense_decoding():
    with pytest.raises(attnpatch.AttnPatchError, match="decode='sliding'"):
        sliding(zoo.build("llama"), decode="dense")


def test_layout_of_rows_that_start_before_at_and_behind_the_tail():
    layout = Layout(sinks=2, tail=10)
    assert layout.dropped == 8
    assert [layout.held(start) for start in (0, 8, 9, 10, 12)] == [2, 2, 1, 0, 0]
    spans = [(0, 14), (8, 14), (9, 14), (10, 14), (12, 14)]
    assert layout.spans(spans) == [(0, 6), (0, 6), (1, 6), (2, 6), (4, 6)]
    tail = [10, 11, 12, 13]
    expected = [[0, 1, *tail], [8, 9, *tail], [-1, 9, *tail], [-1, -1, *tail], [-1, -1, *tail]]
    assert layout.positions(spans, 14).tolist() == expected
