"""Batches whose prompts flux routes differently: every row equals the prompt alone, however it is generated."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch import UnsupportedCallError
from tests import zoo
from tests.methods.flux_cases import batch, close, counted, gates_of, generated, logits, mixed, positions


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "gemma3_text", "phi3"])
def test_rows_that_go_different_ways_equal_each_alone(family, side):
    options, one, two = mixed(family)
    model, inputs = zoo.build(family), batch(one, two, side=side)
    mask = inputs["attention_mask"]
    with attnpatch.apply(model, "flux", **options) as patch:
        together = logits(model, **inputs, position_ids=positions(mask))
        gates = dict(gates_of(patch))
        assert any(len(set(row)) == 2 for row in gates.values())
        for row, ids in enumerate((one, two)):
            alone = logits(model, input_ids=ids)[0]
            assert {layer: found[0] for layer, found in gates_of(patch).items()} == {
                layer: found[row] for layer, found in gates.items()
            }
            assert close(together[row, mask[row].bool()], alone)


def test_every_row_comes_back_to_its_place():
    options, one, two = mixed()
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", **options):
        for rows in ((one, one, two), (two, two, one), (one, two, two, one, two)):
            inputs = batch(*rows)
            together = logits(model, **inputs, position_ids=positions(inputs["attention_mask"]))
            for row, ids in enumerate(rows):
                assert close(together[row, -ids.shape[1] :], logits(model, input_ids=ids)[0])


@pytest.mark.parametrize("sparse", ["sliding", "triangle", "stochastic", "xattention"])
@pytest.mark.parametrize("decode", ["sparse", "dense"])
def test_mixed_batches_generate_what_each_prompt_does(sparse, decode):
    options, one, two = mixed()
    small = {"stochastic": {"window": 2, "resample": False}, "xattention": {"stride": 1, "block": 1, "threshold": 0.5}}
    options = {**options, "sparse": sparse, "decode": decode, "sparse_options": small.get(sparse, {})}
    if sparse == "triangle":
        options["sparse_options"] = {"last": 2}
    model = zoo.build("llama")
    _, together, gates = generated(model, options, batch(one, two))
    assert any(len(set(row)) == 2 for row in gates.values())
    for row, ids in enumerate((one, two)):
        _, alone, own = generated(model, options, {"input_ids": ids})
        assert close(together[:, row], alone[:, 0])
        assert [found[0] for found in own.values()] == [found[row] for found in gates.values()]


def test_beams_keep_the_decision_of_their_prompt():
    options, one, two = mixed()
    model, run = zoo.build("llama"), {"num_beams": 3, "max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 0}
    inputs = batch(one, two)
    with attnpatch.apply(model, "flux", **options) as patch, torch.no_grad():
        beams = model.generate(**inputs, **run, do_sample=False)
        gates = dict(gates_of(patch))
        assert all(row == [row[0]] * 3 + [row[3]] * 3 for row in gates.values())
        assert any(row[0] != row[3] for row in gates.values())
        with patch.prompt(inputs["input_ids"].shape[1]):
            again = model.generate(**inputs, **run, do_sample=False, use_cache=False)
        alone = model.generate(two, **run, do_sample=False)
    assert torch.equal(beams, again)
    assert torch.equal(beams[1], alone[0])


@pytest.mark.parametrize("how", ["static", "no cache"])
def test_other_caches_of_a_mixed_batch(how):
    options, one, two = mixed()
    model, inputs = zoo.build("llama"), batch(one, two)
    tokens, expected, _ = generated(model, options, inputs)
    run = {"static": {"cache_implementation": "static", "disable_compile": True}, "no cache": {"use_cache": False}}[
        how
    ]
    with attnpatch.apply(model, "flux", **options) as patch, patch.prompt(12), torch.no_grad():
        out = model.generate(
            **inputs, **run, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    assert torch.equal(tokens, out.sequences)
    assert close(expected, torch.stack(out.logits))


@pytest.mark.parametrize("drafts", ["assistant", "lookup"])
def test_drafted_tokens(drafts):
    options, _, two = mixed()
    model, inputs = zoo.build("llama"), {"input_ids": two[:, :6].repeat(1, 2)}
    run = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    how = {"assistant_model": zoo.build("llama")} if drafts == "assistant" else {"prompt_lookup_num_tokens": 3}
    with attnpatch.apply(model, "flux", **options) as patch, torch.no_grad():
        expected = model.generate(**inputs, **run)
        seen = counted(patch)
        with patch.prompt(12):
            assert torch.equal(expected, model.generate(**inputs, **run, **how))
        assert seen == [0, 1]


def test_cached_prompts_may_be_repeated_where_they_agree():
    options, one, two = mixed()
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", **options), torch.no_grad():
        cache = model(one).past_key_values
        expected = model(torch.tensor([[5]]), past_key_values=cache).logits
        cache = model(one).past_key_values
        cache.batch_repeat_interleave(2)
        assert close(expected.repeat(2, 1, 1), model(torch.tensor([[5], [5]]), past_key_values=cache).logits)
        inputs = batch(one, two)
        cache = model(**inputs).past_key_values
        cache.batch_repeat_interleave(2)
        mask = torch.cat([inputs["attention_mask"].repeat_interleave(2, 0), torch.ones(4, 1, dtype=torch.long)], 1)
        with pytest.raises(UnsupportedCallError, match="Repeat the prompts before the first forward"):
            model(torch.full((4, 1), 5), past_key_values=cache, attention_mask=mask)


def test_weights_of_a_mixed_batch():
    options, one, two = mixed()
    model, inputs = zoo.build("llama", attn_implementation="eager"), batch(one, two)
    with attnpatch.apply(model, "flux", **options) as patch, torch.no_grad():
        plain = model(**inputs).logits
        out = model(**inputs, output_attentions=True)
        gates = gates_of(patch)
    assert close(plain, out.logits)
    for layer, weights in enumerate(out.attentions):
        far = weights[:, :, -1, :].gt(0).sum(-1).amax(1)  # keys that the last token sees
        for row, length in enumerate((one.shape[1], two.shape[1])):
            assert far[row] == (length if gates[layer][row] else min(length, 5))
