"""Gates and their temperature, and the multipliers that hold the targets."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from attnpatch.methods.flux.router import FULL, SPARSE
from attnpatch.training.gates import Gates, temperature
from attnpatch.training.objective import Multipliers
from attnpatch.training.settings import RouterSettings


def call(sample: int = 0, layer: int = 0) -> SimpleNamespace:
    return SimpleNamespace(forward=SimpleNamespace(sample=sample), layer=layer)


def ask(gates: Gates, logits: torch.Tensor) -> torch.Tensor:
    """The gates of logits `[samples, layers, 2]`, as `[samples, layers]`."""
    return torch.stack(
        [
            torch.cat([gates(call(sample, layer), logits[sample, layer][None]) for layer in range(logits.shape[1])])
            for sample in range(logits.shape[0])
        ]
    )


def test_temperature():
    settings, steps = RouterSettings(), 300
    falling = 180  # ceil(0.6 * 300)
    taus = [temperature(settings, step, steps) for step in range(steps)]
    assert taus[0] == 1.5
    assert taus[falling] == taus[-1] == 1.0
    assert taus[falling - 1] > 1.0
    assert all(one >= two for one, two in pairwise(taus))
    for step in (1, 60, 90, 179):
        assert taus[step] == pytest.approx(1 + 0.25 * (1 + math.cos(math.pi * step / falling)))
    assert temperature(settings, 3, 5) == 1.0  # ceil(0.6 * 5)
    assert temperature(RouterSettings(temperature_share=0), 0, 10) == 1.0
    own = RouterSettings(temperature_start=1.0, temperature_end=2.0, temperature_share=1.0)
    assert temperature(own, 0, 10) == 1.0
    assert temperature(own, 5, 10) == pytest.approx(1.5)


@pytest.mark.parametrize("tau", [1.5, 1.0])
def test_straight_through(tau):
    """Forward 0 or 1, to the bit; backward the gradient of the softmax of the noisy logits."""
    logits = torch.randn(6, 8, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    gates = Gates(0, 3, 0, tau)
    hard = ask(gates, logits)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    noise = torch.stack([torch.cat([gates._noise(s, layer) for layer in range(8)]) for s in range(6)])
    soft = torch.softmax((logits + noise) / tau, -1)[..., FULL]
    assert torch.equal(hard, (soft > 0.5).float())
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((hard * weight).sum(), logits)
    (expected,) = torch.autograd.grad((soft * weight).sum(), logits)
    assert torch.allclose(found, expected, atol=1e-7)
    assert found.abs().min() > 0

    assert torch.equal(ask(Gates(0, 3, 0, tau, hard=False), logits), soft)


def test_noise_follows_from_seed_step_sample_and_layer():
    def noise(seed=0, step=0, first=0, sample=0, layer=0):
        return tuple(Gates(seed, step, first, 1.0)._noise(sample, layer)[0].tolist())

    assert noise(step=2, first=3, sample=1) == noise(step=2, first=0, sample=4)  # whatever the packs
    torch.manual_seed(7)
    assert noise() == noise()
    ways = [noise(), noise(seed=1), noise(step=1), noise(sample=1), noise(layer=1)]
    assert len(set(ways)) == len(ways)
    before = torch.get_rng_state()
    noise()
    assert torch.equal(before, torch.get_rng_state())


def test_noise_is_gumbel():
    gates = Gates(0, 0, 0, 1.0)
    drawn = torch.cat([gates._noise(sample, layer) for sample in range(500) for layer in range(8)])
    count = len(drawn)
    for column in drawn.T:
        assert float(column.mean()) == pytest.approx(0.5772, abs=5 * math.sqrt(math.pi**2 / 6 / count))
        assert float(column.var()) == pytest.approx(math.pi**2 / 6, rel=0.12)
        assert float((column < 0).float().mean()) == pytest.approx(math.exp(-1), abs=5 * 0.5 / math.sqrt(count))
    assert abs(float(torch.corrcoef(drawn.T)[0, 1])) < 5 / math.sqrt(count)


@pytest.mark.parametrize("drawn", [0.0, 1 - 2**-24])
def test_noise_is_finite_at_the_ends(monkeypatch, drawn):
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, drawn))
    assert torch.isfinite(Gates(0, 0, 0, 1.0)._noise(0, 0)).all()


def test_omega_is_one_minus_the_mean_gate():
    logits = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    gates = Gates(0, 0, 0, 1.0)
    opened = ask(gates, logits)
    again = ask(gates, logits)  # layers that are checkpointed come twice
    assert torch.equal(opened, again)
    assert torch.equal(torch.stack(gates.omegas()), 1 - opened.mean(1))
    without_noise = (logits[..., FULL] <= logits[..., SPARSE]).float().mean(1)
    assert gates.decided() == pytest.approx(without_noise.tolist())
    assert float(gates.squared_logits()) == pytest.approx(float(logits.square().mean()))


def test_a_tie_is_sparse():
    gates = Gates(0, 0, 0, 1.0)
    gates(call(), torch.zeros(1, 2))
    assert gates.decided() == [1.0]


@pytest.mark.parametrize("target, sign", [(1.0, -1), (0.0, 1)])
def test_the_regulariser_pulls_towards_the_target(target, sign):
    """Omega below its target: less of P(full), so a step against the gradient lowers the full logit."""
    logits = torch.zeros(1, 4, 2, requires_grad=True)
    gates = Gates(0, 0, 0, 1.0)
    opened = ask(gates, logits).detach()
    assert 0 < float(opened.mean()) < 1
    multipliers = Multipliers({"a": target}, 0.3, 0.3, 0)
    multipliers(gates.omegas(), ["a"]).backward()
    step = -logits.grad
    assert bool((step[..., FULL] * sign > 0).all())
    assert bool((step[..., SPARSE] * sign < 0).all())


def test_multipliers_grow_while_the_target_is_missed():
    multipliers = Multipliers({"a": 1.0, "b": 0.5}, 0.0, 0.5, 3)
    assert multipliers.linear.min() >= 0
    assert multipliers.square.max() <= 0.5
    optimizer = torch.optim.AdamW(multipliers.parameters(), lr=1e-3, weight_decay=0.0, maximize=True)
    before = multipliers.values()
    for _ in range(3):
        optimizer.zero_grad()
        multipliers([torch.tensor(0.25), torch.tensor(0.5)], ["a", "b"]).backward()
        optimizer.step()
    after = multipliers.values()
    assert after["a"][0] > before["a"][0]
    assert after["a"][1] > before["a"][1]
    assert after["b"] == before["b"]  # its target is met


def test_multipliers_by_hand():
    multipliers = Multipliers({"a": 0.5, "b": 1.0, "c": 0.0}, 0.0, 0.5, 0)
    with torch.no_grad():
        multipliers.linear.copy_(torch.tensor([0.2, 0.3, 9.0]))
        multipliers.square.copy_(torch.tensor([0.4, 0.1, 9.0]))
    omegas = [torch.tensor(value) for value in (0.25, 1.0, 0.5)]
    a = (0.2 * 0.25 + 0.4 * 0.0625 + 0.2 * 0.5 + 0.4 * 0.25) / 2  # misses by -0.25 and 0.5
    b = 0.3 * 0.5 + 0.1 * 0.25  # misses by -0.5; c is not in the pack
    assert multipliers(omegas, ["a", "a", "b"]).item() == pytest.approx((a + b) / 2)
    assert Multipliers({"a": 0.5}, 0.1, 0.4, 5).values() == Multipliers({"a": 0.5}, 0.1, 0.4, 5).values()
    assert Multipliers({"a": 0.5}, 0.1, 0.4, 5).values() != Multipliers({"a": 0.5}, 0.1, 0.4, 6).values()
