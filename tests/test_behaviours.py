"""The promises: what every registered method keeps on every kind of model. A new method gets these by registering."""

from __future__ import annotations

import copy
import gc
import io
import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

import attnpatch
from attnpatch.patching.masks import LazyMask
from tests import zoo
from tests.snapshots import generated_logits, same, structure

FAMILIES = [
    "llama",  # grouped queries
    "llama_mha",
    "llama_mqa",
    "qwen3",  # norms on query and key
    "gemma3_text",  # layers with a window of their own
    "gpt_oss",  # learned sinks, eager base
    "deepseek_v3",  # latent attention
    "qwen3_next",  # linear attention beside full
    "llava",  # a vision model's text side
]
FEW = ["llama", "gemma3_text"]
# Methods about images have a list of their own: tests/methods/vision/test_behaviours.py
METHODS = {name: method for name, method in attnpatch.methods().items() if not method.needs_images}
CASES = [
    pytest.param((name, options), id=f"{name}{number}")
    for name, method in METHODS.items()
    for number, options in enumerate(method.small_options)
]
NAMES = sorted(METHODS)
GENERATION = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=FEW)
def few(request):
    return request.param


def patched(model, case):
    name, options = case
    return attnpatch.apply(model, name, **options)


def close(one: torch.Tensor, two: torch.Tensor, tolerance: float = 2e-5) -> bool:
    return torch.allclose(one.float(), two.float(), atol=tolerance, rtol=1e-4)


def prompt(family: str) -> dict[str, torch.Tensor]:
    return zoo.prompt_for(family)


def single(length: int = 12, seed: int = 3) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 100, (1, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids}


def logits(model, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


# 1. In and out


def test_removal_restores_everything(family, case):
    model, inputs = zoo.build(family), prompt(family)
    stock, before = generated_logits(model, inputs), None
    before = structure(model)
    patch = patched(model, case)
    generated_logits(model, inputs)
    patch.remove()
    patch.remove()
    assert structure(model) == before
    assert same(stock, generated_logits(model, inputs))


def test_an_exception_inside_a_forward_leaves_nothing_behind(few, case):
    model, inputs = zoo.build(few), prompt(few)
    stock, before = logits(model, **inputs), structure(model)

    class Broken(Exception):
        pass

    def fail(*_):
        raise Broken

    last = model.model.layers[-1].mlp
    with pytest.raises(Broken), patched(model, case):  # noqa: PT012
        handle = last.register_forward_pre_hook(fail)
        try:
            model(**inputs)
        finally:
            handle.remove()
    assert structure(model) == before
    assert torch.equal(stock, logits(model, **inputs))


def test_patches_come_out_in_any_order(few, case):
    model, inputs = zoo.build(few), prompt(few)
    stock, before = logits(model, **inputs), structure(model)
    alone = None
    with patched(model, case):
        alone = logits(model, **inputs)
    first, second = patched(model, case), attnpatch.apply(model, "stock")
    assert torch.equal(alone, logits(model, **inputs))
    first.remove()
    assert torch.equal(stock, logits(model, **inputs))
    assert [p.methods[0].name for p in attnpatch.patches(model)] == ["stock"]
    second.remove()
    assert structure(model) == before


def test_disabled_is_stock_for_a_while(few, case):
    model, inputs = zoo.build(few), prompt(few)
    stock = logits(model, **inputs)
    patch = patched(model, case)
    changed = logits(model, **inputs)
    with patch.disabled():
        assert torch.equal(stock, logits(model, **inputs))
    assert torch.equal(changed, logits(model, **inputs))


# 2. Neutral is stock, 3. never silently nothing


@pytest.mark.parametrize("name", NAMES)
def test_neutral_setting_is_stock(family, name):
    model, inputs = zoo.build(family), prompt(family)
    stock = generated_logits(model, inputs)
    with attnpatch.apply(model, name, **attnpatch.methods()[name].neutral_options):
        assert same(stock, generated_logits(model, inputs))


def test_small_settings_act_and_are_counted(family, case):
    model, inputs = zoo.build(family), prompt(family)
    stock = logits(model, **inputs)
    dense_masks = LazyMask.materialised
    with patched(model, case) as patch:
        changed = logits(model, **inputs)
        report = patch.report()
    assert case[0] == "stock" or not close(stock, changed, 1e-6)
    assert report.calls == len(report.sites) > 0
    assert sum(report.backends.values()) >= report.calls
    assert report.mean_keys > 0
    assert LazyMask.materialised == dense_masks


def test_switching_the_implementation_under_us_warns(few, case):
    model, inputs = zoo.build(few), single()
    stock = logits(model, **inputs)
    patch = patched(model, case)
    model.set_attn_implementation("eager")
    with pytest.warns(UserWarning, match="patch has no effect"):
        assert close(stock, logits(model, **inputs))
    with pytest.warns(UserWarning, match="left as it is"):
        patch.remove()
    assert model.config._attn_implementation == "eager"


# 4. Rows are independent


@pytest.mark.parametrize("side", ["left", "right", "right, no mask"])
def test_a_padded_row_equals_the_row_alone(family, case, side):
    if family == "llava":
        pytest.skip("text rows of a vision model run the same text code as llama")
    if side == "right, no mask" and attnpatch.methods()[case[0]].depends_on_length:
        pytest.skip("without a mask padding counts as text, and this method looks at the length")
    model = zoo.build(family)
    rows = [single(7, 5)["input_ids"], single(12, 6)["input_ids"]]
    ids, mask = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.long)
    for row, tokens in enumerate(rows):
        at = slice(12 - tokens.shape[1], 12) if side == "left" else slice(0, tokens.shape[1])
        ids[row, at], mask[row, at] = tokens[0], 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": ids}
    if side != "right, no mask":
        inputs |= {"attention_mask": mask, "position_ids": positions}
    with patched(model, case):
        batch = logits(model, **inputs)
        for row, tokens in enumerate(rows):
            alone = logits(model, input_ids=tokens)[0]
            assert close(batch[row, mask[row].bool()], alone), f"row {row}"


def test_left_padded_generation_equals_each_prompt_alone(few, case):
    model, batch = zoo.build(few), zoo.text_batch()
    with patched(model, case):
        together = generated_logits(model, batch)[1]
        alone = generated_logits(model, {"input_ids": batch["input_ids"][:1, 3:]})[1]
    assert close(together[:, :1], alone)


# Phases and caches: the same prompt, computed in another way


def reference_run(model, case, inputs, **options):
    with patched(model, case):
        return generated_logits(model, inputs, **options)


@pytest.mark.parametrize("how", ["chunks", "no cache", "static", "static, twice"])
def test_other_ways_to_run_a_prompt_agree(family, case, how):
    model, inputs = zoo.build(family), single()
    tokens, expected = reference_run(model, case, inputs)
    options = {
        "chunks": {"prefill_chunk_size": 5},
        "no cache": {"use_cache": False},
        "static": {"cache_implementation": "static", "disable_compile": True},
        "static, twice": {},
    }[how]
    with patched(model, case) as patch, patch.prompt(12):
        if how == "static, twice":
            cache = StaticCache(model.config, max_cache_len=20)
            with patch.prompt(9):
                generated_logits(model, single(9, 8), past_key_values=cache)
            cache.reset()
            options = {"past_key_values": cache}
        try:
            again, found = generated_logits(model, inputs, **options)
        except attnpatch.UnsupportedCallError as refusal:
            why, again = str(refusal), None
    if again is None:  # who reads the whole prompt cannot decide on a piece of it, and says so
        assert how == "chunks"
        assert attnpatch.methods()[case[0]].reads_whole_prompt
        assert "prefill_chunk_size" in why
        return
    assert torch.equal(tokens, again)
    assert close(expected, found)


def test_chunked_prefill_without_a_declared_prompt_is_right_or_refused(few, case):
    model, inputs = zoo.build(few), single()
    _, expected = reference_run(model, case, inputs)
    with patched(model, case):
        try:
            _, found = generated_logits(model, inputs, prefill_chunk_size=5)
        except attnpatch.UnsupportedCallError as refusal:
            found, why = None, str(refusal)
    assert "patch.prompt" in why if found is None else close(expected, found)


def test_packed_samples_equal_each_alone(family, case):
    if family in ("llava", "qwen3_next"):
        pytest.skip("an image prompt is not packed; linear layers would mix the samples, so packing is refused")
    model = zoo.build(family)
    samples = [single(length, length)["input_ids"] for length in (7, 12, 5)]
    positions = torch.cat([torch.arange(ids.shape[1]) for ids in samples])[None]
    with patched(model, case) as patch:
        with patch.packed([7, 12, 5]):
            together = logits(model, input_ids=torch.cat(samples, 1), position_ids=positions, use_cache=False)
        patch.reset()
        alone = torch.cat([logits(model, input_ids=ids, use_cache=False) for ids in samples], 1)
    assert close(together, alone)


@pytest.mark.parametrize("how", ["assistant", "prompt lookup"])
def test_drafted_tokens_change_nothing(few, case, how):
    model, inputs = zoo.build(few), {"input_ids": single(6)["input_ids"].repeat(1, 2)}
    tokens, _ = reference_run(model, case, inputs, max_new_tokens=8, min_new_tokens=8)
    drafts = {"assistant_model": zoo.build(few)} if how == "assistant" else {"prompt_lookup_num_tokens": 3}
    with patched(model, case) as patch, patch.prompt(12), torch.no_grad():
        drafted = model.generate(**inputs, **GENERATION | {"max_new_tokens": 8, "min_new_tokens": 8}, **drafts)
    assert torch.equal(tokens, drafted)


def test_beams_agree_with_and_without_a_cache(few, case):
    model, inputs = zoo.build(few), single()
    options = GENERATION | {"num_beams": 3, "num_return_sequences": 3}
    with patched(model, case) as patch, patch.prompt(12), torch.no_grad():
        cached = model.generate(**inputs, **options)
        uncached = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached, uncached)


# 5. Nothing outlives its sequence


def test_prompts_back_to_back_equal_each_alone(few, case):
    model, first, second = zoo.build(few), single(12, 3), single(9, 4)
    alone = [reference_run(model, case, inputs) for inputs in (first, second)]
    with patched(model, case):
        together = [generated_logits(model, inputs) for inputs in (first, second)]
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_state_dies_with_its_cache(case):
    model = zoo.build("llama")
    with patched(model, case) as patch:
        cache = DynamicCache(config=model.config)
        logits(model, **single(), past_key_values=cache)
        states = patch._installation.states
        assert len(states) == 1
        del cache
        gc.collect()
        assert len(states) == 0


# 6. Causal stays causal


def test_later_tokens_never_change_earlier_outputs(family, case):
    if family == "llava" or attnpatch.methods()[case[0]].reads_whole_prompt:
        pytest.skip("declared to read the whole prompt, or no text-only prompt")
    model, inputs = zoo.build(family), single()
    with patched(model, case):
        before = logits(model, **inputs)
        for at in (4, 8, 11):
            changed = inputs["input_ids"].clone()
            changed[0, at:] = (changed[0, at:] + 17) % 90 + 3
            after = logits(model, input_ids=changed)
            # Experts group tokens, so the last bits of a row may depend on its neighbours.
            assert close(before[:, :at], after[:, :at], 1e-6)
            assert not close(before[:, at:], after[:, at:], 1e-3)


# Copies, files, wrappers


def test_a_deep_copy_is_patched_and_independent(few, case):
    model, inputs = zoo.build(few), single()
    stock = logits(model, **inputs)
    patch = patched(model, case)
    changed = logits(model, **inputs)
    twin = copy.deepcopy(model)
    patch.remove()
    assert torch.equal(stock, logits(model, **inputs))
    assert torch.equal(changed, logits(twin, **inputs))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert torch.equal(changed, logits(twin, **inputs))
    for one in attnpatch.patches(twin):
        one.remove()
    assert torch.equal(stock, logits(twin, **inputs))


def test_a_pickled_model_comes_back_patched(few, case):
    model, inputs = zoo.build(few), single()
    patched(model, case)
    changed = logits(model, **inputs)
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(changed, logits(twin, **inputs))
    buffer = io.BytesIO()
    torch.save(model, buffer)


def test_saved_files_know_nothing_of_the_patch(few, case, tmp_path):
    model, inputs = zoo.build(few), single()
    stock = logits(model, **inputs)
    with patched(model, case):
        model.save_pretrained(tmp_path)
    assert "attnpatch" not in (tmp_path / "config.json").read_text()
    assert torch.equal(stock, logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), **inputs))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(few, case, reentrant):
    model, inputs = zoo.build(few), single()

    def gradients() -> torch.Tensor:
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    with patched(model, case) as patch:
        model.train()
        patch.reset()
        plain = gradients()
        # The name changed in transformers 5.23.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": reentrant})
        patch.reset()
        assert close(plain, gradients(), 1e-6)


def test_compiled_models_agree_with_eager_ones(case):
    model, inputs = zoo.build("llama"), single()
    method = attnpatch.methods()[case[0]]
    with patched(model, case):
        expected = logits(model, **inputs, use_cache=False)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=method.compilable)
        assert close(expected, logits(compiled, **inputs, use_cache=False))
    torch._dynamo.reset()


def test_cpu_offload(few, case):
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_submodules

    model, inputs = zoo.build(few), single()
    with patched(model, case) as patch:
        expected = generated_logits(model, inputs)
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert same(expected, generated_logits(model, inputs))
        remove_hook_from_submodules(model)
        assert same(expected, generated_logits(model, inputs))
        assert patch.report().calls


@pytest.mark.parametrize("order", ["lora first", "patch first"])
def test_lora(few, case, order):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model, inputs = zoo.build(few), single()
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    expected = reference_run(model, case, inputs)
    if order == "lora first":
        wrapped = get_peft_model(model, lora).eval()
        patch = patched(wrapped, case)
    else:
        patch = patched(model, case)
        wrapped = get_peft_model(model, lora).eval()
    adapted = generated_logits(wrapped, inputs)
    assert not same(expected, adapted)
    with wrapped.disable_adapter():
        assert same(expected, generated_logits(wrapped, inputs))
    assert patch.report().calls
    assert not any("attnpatch" in key for key in wrapped.state_dict())


def test_bfloat16(few, case):
    model, inputs = zoo.build(few), single()
    with patched(model, case):
        exact = logits(model, **inputs)
        model.to(torch.bfloat16)
        rough = logits(model, **inputs)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.05


def test_output_attentions_are_the_weights_used(case):
    model, inputs = zoo.build("llama", attn_implementation="eager"), single()
    with patched(model, case), torch.no_grad():
        plain = model(**inputs).logits
        out = model(**inputs, output_attentions=True)
    assert close(plain, out.logits)
    assert len(out.attentions) == 2
    for weights in out.attentions:
        assert weights.shape == (1, 4, 12, 12)
        assert close(weights.sum(-1), torch.ones(1, 4, 12))
        assert torch.equal(weights, weights.tril())


def test_generate_batch_is_refused(case):
    model = zoo.build("llama")
    with patched(model, case), pytest.raises((ValueError, RuntimeError)):
        model.generate_batch(inputs=[[5, 6, 7]])
