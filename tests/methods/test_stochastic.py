"""stochastic against its sheet: masks, budgets, permutations, phases."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnpatch
from attnpatch.kernels import PermutedBuckets, PermutedWindow
from attnpatch.methods.stochastic import Permutation, mix
from tests import zoo
from tests.methods.masks import buckets_mask, logits_under, one_layer, sliding_mask, slots_mask, tokens

N = 23


def order_of(seed: int = 0, layer: int = 0, draw: int = 0, n: int = N) -> torch.Tensor:
    return Permutation(mix(seed, layer, draw))(n)


@pytest.mark.parametrize(
    "options, mask",
    [
        ({"window": 4}, lambda o: slots_mask(o, 3, 3, True)),
        ({"window": 4, "circular": False}, lambda o: slots_mask(o, 3, 3, False)),
        ({"window": 6, "budget": "slots"}, lambda o: slots_mask(o, 3, 2, True)),
        ({"window": 7, "budget": "slots"}, lambda o: slots_mask(o, 3, 3, True)),
        ({"window": 3, "sink": 2, "local": 3}, lambda o: slots_mask(o, 2, 2, True, 2, 3)),
        ({"window": 3, "variant": "buckets"}, lambda o: buckets_mask(o, 5)),
        ({"window": 4, "variant": "buckets", "budget": "slots"}, lambda o: buckets_mask(o, 4)),
    ],
)
def test_the_model_under_the_method_is_the_model_under_the_mask(options, mask):
    model, ids = one_layer(), tokens(N)
    explicit = mask(order_of())
    expected = logits_under(model, ids, explicit)
    with attnpatch.apply(model, "stochastic", **options) as patch, torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)
        assert patch.report().mean_keys == pytest.approx(explicit.sum().item() / N)


def test_one_permutation_per_key_head():
    model, ids = one_layer(num_key_value_heads=2), tokens(N)
    orders = Permutation(mix(0, 0, 0), 2)(N)
    assert not torch.equal(orders[0], orders[1])
    masks = torch.stack([slots_mask(order, 2, 2, True) for order in orders]).repeat_interleave(2, dim=0)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=masks[None]).logits
        with attnpatch.apply(model, "stochastic", window=3, per_head=True):
            assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)


def test_the_budgets_of_the_sheet():
    circular = [slots_mask(order_of(seed, n=400), 16, 16, True) for seed in range(40)]
    assert all(mask.sum().item() / 400 == 17.0 for mask in circular)
    assert all(mask[-1].sum().item() == 33 for mask in circular)
    straight = PermutedWindow(Permutation(1), 16, 16, circular=False)
    assert straight.pairs(0, 400, 400) / 400 == pytest.approx(16.66, abs=0.01)
    assert PermutedWindow(Permutation(1), 16, 16).pairs(0, 400, 400) == 6800
    assert PermutedBuckets(Permutation(1), 33).pairs(0, 33 * 12, 33 * 12) / (33 * 12) == 17.0


def test_mean_visible_keys_grow_linearly_with_the_position():
    """E[keys of token i] = 1 + (W - 1) i / (n - 1)."""
    n, half = 101, 8
    mean = torch.stack([slots_mask(order_of(s, n=n), half, half, True).sum(1).float() for s in range(400)]).mean(0)
    expected = 1 + 2 * half * torch.arange(n) / (n - 1)
    assert (mean - expected).abs().max() < 0.6


def test_the_identity_permutation_is_a_sliding_window():
    rule = PermutedWindow(torch.arange, before=4, after=0, circular=False)
    at = torch.arange(N)
    assert torch.equal(rule.visible(at[:, None], at[None, :], N), sliding_mask(N, 5, 0))


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 300), seed=st.integers(0, 2**40), heads=st.one_of(st.none(), st.integers(1, 4)))
def test_permutations_are_permutations(n, seed, heads):
    orders = Permutation(seed, heads)(n).reshape(-1, n)
    assert orders.shape[0] == (heads or 1)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(n).expand(heads or 1, n))
    x = torch.randn(n)
    back = torch.empty(n)
    back[orders[0]] = x[orders[0]]
    assert torch.equal(back, x)


def test_seeds_are_the_same_in_every_process():
    code = "from attnpatch.methods.stochastic import *; print(mix(3, 1, 2), Permutation(mix(3, 1, 2))(9).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{mix(3, 1, 2)} {Permutation(mix(3, 1, 2))(9).tolist()}"


def test_layers_sequences_and_seeds_draw_anew():
    base = order_of(n=64)
    for other in (order_of(layer=1, n=64), order_of(draw=1, n=64), order_of(seed=1, n=64)):
        assert not torch.equal(base, other)


def test_resample():
    model, ids = zoo.build("llama"), tokens(N)
    with torch.no_grad():
        with attnpatch.apply(model, "stochastic", window=3) as patch:
            first, second = model(input_ids=ids).logits, model(input_ids=ids).logits
            patch.reset()
            assert torch.equal(first, model(input_ids=ids).logits)
        assert not torch.allclose(first, second, atol=1e-5)
        with attnpatch.apply(model, "stochastic", window=3, resample=False):
            assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
        with attnpatch.apply(model, "stochastic", window=3, seed=5):
            assert not torch.allclose(first, model(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize("decode", ["dense", "sliding"])
def test_generated_tokens_are_decode_rows(decode):
    model, ids = one_layer(), tokens(N)
    mask = torch.ones(N, N, dtype=torch.bool).tril() if decode == "dense" else sliding_mask(N, 3, 1)
    mask[:16] = False
    mask[:16, :16] = slots_mask(order_of(n=16), 2, 2, True, sink=1)
    expected = logits_under(model, ids, mask)
    with attnpatch.apply(model, "stochastic", window=3, sink=1, decode=decode) as patch, torch.no_grad():
        out = model(input_ids=ids[:, :16], use_cache=True)
        found = [out.logits]
        for at in range(16, N):
            out = model(input_ids=ids[:, at : at + 1], past_key_values=out.past_key_values)
            found.append(out.logits)
        assert torch.allclose(torch.cat(found, 1), expected, atol=1e-5)
        # The whole text in one forward, with the end of the prompt declared, is the same.
        patch.reset()
        with patch.prompt(16):
            assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)


def test_reach_grows_exponentially_with_depth():
    """The last token reaches nearly all others in about log_W(n) layers, where a sliding window needs n / w.

    Not all: causality lets only later tokens pass a message on, so the newest tokens stay hard to reach.
    """
    n, half = 1024, 8
    layers = 2 * math.ceil(math.log(n, 2 * half + 1))
    seen = torch.zeros(n, dtype=torch.bool)
    seen[-1] = True
    for layer in range(layers):
        seen = slots_mask(order_of(layer=layer, n=n), half, half, True)[seen].any(0)
    assert seen.float().mean() > 0.9
    assert layers * half < n / 10  # what a sliding window of the same budget would reach


def test_neutral_at_the_dense_mean():
    model, ids = zoo.build("llama"), tokens(N)
    with torch.no_grad():
        stock = model(input_ids=ids).logits
        with attnpatch.apply(model, "stochastic", window=(N + 1) // 2):
            assert torch.equal(stock, model(input_ids=ids).logits)
        with attnpatch.apply(model, "stochastic", window=(N + 1) // 2 - 1):
            assert not torch.equal(stock, model(input_ids=ids).logits)
        with attnpatch.apply(model, "stochastic", window=N, circular=False):
            assert torch.equal(stock, model(input_ids=ids).logits)
