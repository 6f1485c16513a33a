"""Equal budgets: what is counted, and the search for the window."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.evaluation.budget import dense_mean, match_budget, mean_keys
from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.methods import parse_method

N = 200


def measured(spec: str, length: int = N) -> float:
    method = parse_method(spec)
    return mean_keys(method.name, method.config(length=length), length)


def test_formulas_of_the_sheets():
    assert measured("stock") == dense_mean(N) == (N + 1) / 2
    w = 16
    assert measured(f"sliding:window={w},sink=0") == pytest.approx(w - w * (w - 1) / (2 * N))
    assert measured(f"stochastic:window={w}", 400) == pytest.approx(w, abs=0.01)  # circular: half + 1
    assert measured("sliding:window=200") == dense_mean(N)


@pytest.mark.parametrize(
    "spec", ["sliding:window=10,sink=3", "stochastic:window=9", "stochastic:window=6,local=5,sink=2", "stock"]
)
def test_probe_agrees_with_a_real_forward(sandbox_model, spec):
    method = parse_method(spec)
    config = method.config(length=64)
    with attnpatch.apply(sandbox_model, method.name, **config) as patch, torch.inference_mode():
        sandbox_model(input_ids=torch.ones(1, 64, dtype=torch.long), use_cache=False)
        assert mean_keys(method.name, config, 64) == pytest.approx(patch.report().mean_keys)


@pytest.mark.parametrize("spec", ["sliding", "sliding:sink=0", "stochastic", "stochastic:local=8,sink=4"])
@pytest.mark.parametrize("target", [20, 50])
def test_all_methods_meet_the_target(spec, target):
    method = parse_method(spec, budgets=True)

    def measure(window: int) -> float:
        return mean_keys(method.name, method.config(length=N, window=window), N)

    window = match_budget(measure, target, N)
    assert measure(window) == pytest.approx(target, abs=0.8)
    assert abs(measure(window) - target) <= min(
        abs(measure(w) - target) for w in range(max(1, window - 3), window + 4)
    )


def test_search_on_a_staircase():
    calls = []

    def measure(value: int) -> float:
        calls.append(value)
        return 10.0 * value

    assert match_budget(measure, 64, 1000) == 6
    assert match_budget(measure, 65, 1000) == 6  # a tie goes to the smaller budget
    assert match_budget(measure, 66, 1000) == 7
    assert len(calls) < 60


def test_budgets_that_cannot_be_met():
    with pytest.raises(SkipCell, match="is full attention"):
        match_budget(lambda value: value, 110, N)
    with pytest.raises(SkipCell, match="smallest window spends"):
        match_budget(lambda value: 40 + value, 20, N)
