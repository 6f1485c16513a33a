"""Lazy masks: exact when read, weightless when not, and honest about the rule they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import StaticCache, masking_utils

import attnpatch
from attnpatch.patching import calls
from attnpatch.patching.masks import LazyMask, MaskSpec, lazy_mask_for, spans_of
from tests import zoo


def request(**changes) -> dict:
    return {
        "batch_size": 2,
        "q_length": 5,
        "kv_length": 5,
        "q_offset": 0,
        "kv_offset": 0,
        "mask_function": masking_utils.causal_mask_function,
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool),
        "allow_is_causal_skip": True,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        **changes,
    }


@pytest.mark.parametrize("base", ["sdpa", "eager"])
def test_reading_gives_what_the_base_gives(base):
    mask = lazy_mask_for(base)(**request())
    expected = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS[base](**request())
    assert isinstance(mask, LazyMask)
    assert (mask.shape, mask.dtype, mask.device) == (expected.shape, expected.dtype, expected.device)
    before = LazyMask.materialised
    assert torch.equal(mask.spec.base_mask, expected)
    assert LazyMask.materialised == before
    assert torch.equal(mask[:, :, 1:], expected[:, :, 1:])
    assert LazyMask.materialised > before


def test_passing_on_costs_nothing():
    mask = lazy_mask_for("sdpa")(**request())
    before = LazyMask.materialised
    assert isinstance(mask.detach(), LazyMask)
    assert isinstance(mask.to("cpu"), LazyMask)
    moved = mask.to("meta")
    assert isinstance(moved, LazyMask)
    assert moved.device.type == "meta"
    assert LazyMask.materialised == before


def test_a_mask_for_a_long_prompt_has_no_storage():
    mask = lazy_mask_for("sdpa")(**request(batch_size=1, q_length=1 << 20, kv_length=1 << 20, attention_mask=None))
    assert mask.shape == (1, 1, 1 << 20, 1 << 20)  # a terabyte, were it dense
    assert "LazyMask" in repr(mask)


def test_it_is_none_for_the_base_where_the_base_skips_the_mask():
    assert lazy_mask_for("sdpa")(**request(attention_mask=None)).spec.base_mask is None


def test_a_lone_newest_token_needs_none_where_nothing_is_hidden():
    ask, step = lazy_mask_for("sdpa"), {"q_length": 1, "q_offset": 4}
    assert ask(**request(**step, attention_mask=None)) is None
    assert ask(**request(**step, attention_mask=torch.ones(2, 5, dtype=torch.bool))) is None
    padded = ask(**request(**step))
    assert isinstance(padded, LazyMask)
    assert torch.equal(padded.spec.base_mask, padded.spec.dense)
    assert isinstance(lazy_mask_for("eager")(**request(**step, attention_mask=None)), LazyMask)
    window = masking_utils.sliding_window_causal_mask_function(3)
    for other in ({"mask_function": window, "local_size": 3}, {"kv_length": 9}, {"q_offset": torch.tensor(4)}):
        assert isinstance(ask(**request(**{**step, **other}, attention_mask=None)), LazyMask)


def test_the_counter_of_a_static_cache_is_not_shared():
    counter = torch.tensor(3)
    spec = MaskSpec("sdpa", request(q_offset=counter, q_length=1, kv_length=8, attention_mask=None))
    counter += 1
    assert spec.offset == 3


def test_a_static_cache_without_padding_is_exact_at_every_step():
    """A 2-D padding mask, or comparing tokens only, would hide a mask that is one step late."""
    ids = torch.randint(3, 100, (1, 9), generator=torch.Generator().manual_seed(0))

    def run(model):
        cache, pieces = StaticCache(model.config, max_cache_len=16), (ids[:, :5], *ids[:, 5:].split(1, dim=1))
        return torch.cat([model(input_ids=piece, past_key_values=cache).logits for piece in pieces], 1)

    model = zoo.build("llama")
    with torch.no_grad():
        stock = run(model)
        with attnpatch.apply(model, "stock"):
            assert torch.equal(stock, run(model))


@pytest.mark.parametrize("padded", [0, 2])
def test_only_a_step_with_a_mask_is_searched_for_padding(padded, monkeypatch):
    searched, model = [], zoo.build("llama")

    def search(padding, rows, end):
        searched.append(end)
        return spans_of(padding, rows, end)

    monkeypatch.setattr(calls, "spans_of", search)
    ids = torch.randint(3, 100, (1, 6), generator=torch.Generator().manual_seed(0))
    real = (torch.arange(6) >= padded).long()[None]
    with torch.no_grad(), attnpatch.apply(model, "stock") as patch:
        cache = model(input_ids=ids[:, :5], attention_mask=real[:, :5]).past_key_values
        model(input_ids=ids[:, 5:], attention_mask=real, past_key_values=cache)
    assert searched == ([5, 6] if padded else [5])
    assert patch.report().decode_mean_keys == 6 - padded


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, ("causal", None)),
        (
            {"mask_function": masking_utils.sliding_window_causal_mask_function(3), "local_size": 3},
            ("sliding", 3),
        ),
        ({"mask_function": masking_utils.sliding_window_causal_mask_function(4), "local_size": 3}, ("other", None)),
        (
            {"mask_function": masking_utils.chunked_causal_mask_function(3, torch.zeros(2)), "local_size": 3},
            ("other", None),
        ),
        ({"mask_function": masking_utils.bidirectional_mask_function}, ("other", None)),
        (
            {
                "mask_function": masking_utils.or_masks(
                    masking_utils.causal_mask_function, masking_utils.blockwise_overlay(torch.zeros(2, 5))
                )
            },
            ("other", None),
        ),
    ],
)
def test_the_rule_is_recognised_or_called_other(changes, expected):
    assert MaskSpec("sdpa", request(**changes)).pattern == expected


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=4), st.integers(6, 9))
def test_spans_are_the_runs_of_real_tokens(ends, width):
    spans = [(min(pair), max(pair)) if min(pair) != max(pair) else (0, 0) for pair in ends]
    padding = torch.zeros(len(spans), width, dtype=torch.bool)
    for row, (start, stop) in enumerate(spans):
        padding[row, start:stop] = True
    found = spans_of(padding, len(spans), width)
    assert (found is None and bool(padding.all())) or found == spans


def test_spans_of_a_mask_that_reaches_into_the_future():
    assert spans_of(torch.tensor([[0, 1, 1, 0, 0]]), 1, 3) == [(1, 3)]
    assert spans_of(torch.ones(1, 5), 1, 3) is None
