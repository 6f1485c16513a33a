"""Several samples in one row: each as if it were alone, none knows of another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

import attnpatch
from attnpatch import AttnPatchError, UnsupportedCallError, UnsupportedModelError
from tests import zoo
from tests.snapshots import structure

METHODS = {
    "stock": {},
    "sliding": {"window": 3, "sink": 1},
    "stochastic": {"window": 2},
    "flux": {"router": "untrained", "local": 3, "sink": 1, "seed": 2},
}


def samples(*lengths: int) -> list[torch.Tensor]:
    return [torch.randint(3, 100, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths]


def row(parts: list[torch.Tensor]) -> dict:
    positions = torch.cat([torch.arange(ids.shape[1]) for ids in parts])[None]
    return {"input_ids": torch.cat(parts, 1), "position_ids": positions, "use_cache": False}


def packed(model, patch, parts, prompts=None, **more) -> torch.Tensor:
    with patch.packed([ids.shape[1] for ids in parts], prompts):
        return model(**row(parts), **more).logits


def alone(model, ids, prompt=None) -> torch.Tensor:
    patch = attnpatch.patches(model)[0]
    with patch.prompt(prompt or ids.shape[1]):
        return model(input_ids=ids, use_cache=False).logits


MODEL = zoo.build("llama")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    name=st.sampled_from(sorted(METHODS)),
    data=st.data(),
)
def test_random_rows_equal_each_sample_alone(lengths, name, data):
    prompts = [data.draw(st.integers(1, length)) for length in lengths]
    parts = samples(*lengths)
    with attnpatch.apply(MODEL, name, **METHODS[name]) as patch, torch.no_grad():
        together = packed(MODEL, patch, parts, prompts)
        patch.reset()
        each = [alone(MODEL, ids, prompt) for ids, prompt in zip(parts, prompts, strict=True)]
    assert torch.allclose(together, torch.cat(each, 1), atol=2e-5)


def test_rows_of_samples_are_numbered_like_samples():
    parts = samples(9, 11, 10)
    with attnpatch.apply(MODEL, "stochastic", window=2) as patch, torch.no_grad():
        together = torch.cat([packed(MODEL, patch, parts) for _ in range(2)], 1)
        patch.reset()
        assert torch.allclose(together, torch.cat([alone(MODEL, ids) for ids in parts * 2], 1), atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss"])
@pytest.mark.parametrize("name", METHODS)
def test_a_sample_never_changes_another(family, name):
    model, parts = zoo.build(family), samples(7, 12, 5)
    other = [parts[0], (parts[1] + 40) % 90 + 3, parts[2]]
    with attnpatch.apply(model, name, **METHODS[name]) as patch, torch.no_grad():
        before = packed(model, patch, parts)
        patch.reset()
        after = packed(model, patch, other)
    # Experts group tokens, so the last bits of a row may depend on its neighbours.
    exact = 0 if family != "gpt_oss" else 1e-6
    for own in (slice(0, 7), slice(19, 24)):
        assert torch.allclose(before[:, own], after[:, own], atol=exact, rtol=0)
    assert not torch.allclose(before[:, 7:19], after[:, 7:19], atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_with_and_without_checkpointing(name):
    def gradients(checkpointing: bool) -> torch.Tensor:
        model = zoo.build("llama").train()
        if checkpointing:
            # The name changed in transformers 5.23.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        with attnpatch.apply(model, name, **METHODS[name]) as patch:
            logits = packed(model, patch, samples(7, 12, 5))
            logits.float().square().mean().backward()
        return torch.cat([one.grad.flatten() for one in model.parameters()])

    plain = gradients(False)
    assert plain.norm() > 0
    assert torch.allclose(plain, gradients(True), atol=1e-7)


def test_numbers_that_do_not_fit():
    model, parts = zoo.build("llama"), samples(4, 3)
    with attnpatch.apply(model, "sliding") as patch:
        for lengths, prompts in (([], None), ([4, 0], None), ([4, 3], [4]), ([4, 3], [5, 1]), ([4, 3], [0, 1])):
            with pytest.raises(AttnPatchError, match="one prompt of 1 to all tokens"), patch.packed(lengths, prompts):
                pass
        inputs = row(parts)
        wrong = [
            ({}, [4, 4], "declared one row of 8 tokens"),
            ({"input_ids": inputs["input_ids"].repeat(2, 1)}, [4, 3], "declared one row of 7 tokens"),
            ({"attention_mask": torch.ones(1, 7, dtype=torch.long)}, [4, 3], "without attention_mask"),
            ({"past_key_values": DynamicCache(config=model.config)}, [4, 3], "and cache"),
            ({"position_ids": None}, [4, 3], "position_ids that start at 0"),
            ({"position_ids": torch.arange(7)[None]}, [4, 3], "position_ids that start at 0"),
        ]
        for changes, lengths, match in wrong:
            with patch.packed(lengths), torch.no_grad(), pytest.raises(UnsupportedCallError, match=match):
                model(**inputs | changes)
        assert patch.report().calls == 0
        with torch.no_grad():  # what was declared ends with its block
            assert model(**inputs | {"position_ids": None}).logits.shape[1] == 7


def test_layers_out_of_reach_would_mix_samples():
    model = zoo.build("qwen3_next")
    before = structure(model)
    with (
        attnpatch.apply(model, "sliding") as patch,
        pytest.raises(UnsupportedModelError, match="Run each by itself"),
        patch.packed([4, 3]),
    ):
        pass
    assert structure(model) == before


def test_unpatched_layers_keep_samples_apart_too():
    model, parts = zoo.build("llama"), samples(4, 6)
    with attnpatch.apply(model, "sliding", window=2, layers=[0]) as patch, torch.no_grad():
        together = packed(model, patch, parts)
        assert torch.allclose(together, torch.cat([alone(model, ids) for ids in parts], 1), atol=2e-5)
        with patch.disabled():
            stock = packed(model, patch, parts)
    with torch.no_grad():
        each = [model(ids).logits for ids in parts]
    assert torch.allclose(stock, torch.cat(each, 1), atol=2e-5)
