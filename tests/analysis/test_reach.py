"""Theoretical reach against brute force over the rules, and against gradients of a real model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import attnpatch
from attnpatch.analysis.reach import reach, sources
from attnpatch.kernels import Causal, PermutedBuckets, PermutedWindow, Window
from attnpatch.kernels.rules import Rule


def order(seed: int, heads: int | None = None):
    def draw(n: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        rows = [torch.randperm(n, generator=generator) for _ in range(heads or 1)]
        return rows[0] if heads is None else torch.stack(rows)

    return draw


RULES = [
    Causal(),
    Window(5),
    Window(1),
    Window(4, sink=3),
    Window(9, sink=4, reach=6),
    Window(3, sink=4, reach=20),
    Window(500, sink=2),
    PermutedWindow(order(0), 2, 2),
    PermutedWindow(order(1), 3, 1, circular=False, sink=2),
    PermutedWindow(order(2), 0, 4, local=3),
    PermutedWindow(order(3, heads=2), 2, 2, sink=1),
    PermutedWindow(order(4), 40, 40, circular=False),
    PermutedWindow(order(4), 19, 19),
    PermutedBuckets(order(5), 6),
    PermutedBuckets(order(6), 7, previous=2, sink=1, local=2),
    PermutedBuckets(order(7, heads=2), 100, previous=3),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 37, 40])
def test_sources_are_what_the_rule_shows(rule, n):
    generator = torch.Generator().manual_seed(n)
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    visible = rule.visible(i, j, n).reshape(-1, n, n).any(0)
    for share in (0.05, 0.3):
        queries = torch.rand(n, generator=generator) < share
        queries[n // 2] = True
        assert torch.equal(sources(rule, queries), visible[queries].any(0))


def test_window_reaches_a_window_per_layer_and_the_sinks():
    found = reach([Window(8, sink=2)] * 3, 100, 90).nonzero().flatten().tolist()
    assert found == [0, 1, *range(90 - 3 * 7, 91)]


def test_layers_differ():
    assert reach([Causal(), Window(4)], 50, 40).nonzero().flatten().tolist() == list(range(41))
    assert reach([Window(4), Window(1)], 50, 40).nonzero().flatten().tolist() == [37, 38, 39, 40]
    assert reach([], 5, 2).tolist() == [False, False, True, False, False]


@dataclass(frozen=True)
class Strided(Rule):
    """A rule that reach.py has no formula for."""

    step: int

    def visible(self, i, j, n):
        return (j <= i) & ((i - j) % self.step == 0)


def test_unknown_rules_pair_by_pair():
    assert reach([Strided(6)], 30, 20).nonzero().flatten().tolist() == [2, 8, 14, 20]
    with pytest.raises(ValueError, match="Strided is known up to 4096 tokens, got 5000"):
        reach([Strided(6)], 5000, 20)


@pytest.mark.parametrize("query", [-1, 10])
def test_query_outside(query):
    with pytest.raises(ValueError, match="query must be 0 to 9"):
        reach([Causal()], 10, query)


@pytest.mark.parametrize(
    "method, options, rules",
    [
        ("sliding", {"window": 5, "sink": 2}, [Window(5, 2)] * 3),
        ("stochastic", {"window": 3, "resample": False, "seed": 4}, None),
        ("stochastic", {"window": 4, "resample": False, "variant": "buckets", "per_head": True}, None),
    ],
)
def test_gradients_come_from_the_reach_and_from_nowhere_else(method, options, rules):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    model, n, query = Qwen3ForCausalLM(config).double().eval(), 60, 55
    embedded = model.get_input_embeddings()(torch.randint(0, 50, (1, n))).detach().requires_grad_()
    with attnpatch.apply(model, method, **options) as patch:
        if rules is None:
            rules = [_rule_of(patch.methods[0], layer, n) for layer in range(3)]
        model(inputs_embeds=embedded).logits[0, query].square().sum().backward()
    influence = embedded.grad[0].abs().sum(-1) > 0
    assert torch.equal(influence, reach(rules, n, query))
    assert influence.sum() < query


def _rule_of(method, layer: int, n: int) -> Rule:
    from types import SimpleNamespace

    call = SimpleNamespace(
        layer=layer, forward=SimpleNamespace(index=0), prompt_length=None, key=torch.empty(1, 2, n, 1)
    )
    return method.rule(call)
