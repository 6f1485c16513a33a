"""Speed measured in alternation: every method in every round, stock as the yardstick."""

from __future__ import annotations

import pytest

import attnpatch
from attnpatch.evaluation import alternating, runner


@pytest.fixture
def clockwork(monkeypatch):
    """Stock takes 1 s for prefill and 2 s for decode, others 2 s and 1 s; round r is r times as slow (load)."""
    order = []

    def once(model, ids):
        name = attnpatch.patches(model)[0].methods[0].name
        order.append(name)
        load = float(order.count(name))
        return (load, 2 * load) if name == "stock" else (2 * load, load)

    monkeypatch.setattr(alternating, "_once", once)
    return order


def test_methods_take_turns_and_load_cancels_out(small_run, clockwork):
    rows = small_run(speed_rounds=3, tasks=["needle"]).run["speed"]
    assert clockwork == ["stock", "sliding", "stochastic"] * 4  # one warm-up
    assert [(row["method"], row["budget"], row["rounds"]) for row in rows] == [
        ("stock", None, 3), ("sliding", 12, 3), ("stochastic", 12, 3),
    ]  # fmt: skip
    assert [row["prefill_of_stock"] for row in rows] == [1.0, 0.5, 0.5]
    assert [row["decode_of_stock"] for row in rows] == [1.0, 2.0, 2.0]
    assert rows[0]["prefill_tokens_per_s"] == (96 - alternating.STEPS) / 3  # rounds 2, 3, 4: the first is the warm-up


def test_real_clock(small_run, sandbox_model):
    results = small_run(speed_rounds=1, tasks=["needle"])
    assert all(row["prefill_tokens_per_s"] > 0 and row["decode_tokens_per_s"] > 0 for row in results.run["speed"])
    assert not attnpatch.patches(sandbox_model)
    assert "of stock" in results.to_markdown()


def test_times_are_kept_for_the_same_methods_only(small_run, tmp_path, clockwork):
    first = small_run(speed_rounds=2, output_path=tmp_path).run["speed"]
    clockwork.clear()
    assert small_run(speed_rounds=2, output_path=tmp_path).run["speed"] == first
    assert not clockwork
    fewer = small_run(speed_rounds=2, output_path=tmp_path, methods=["sliding"])
    assert fewer.run["speed"] is None
    assert "of stock" not in fewer.to_markdown().partition("Scores:")[0]


def test_no_rounds_no_times(small_run, clockwork):
    assert small_run(speed_rounds=0).run["speed"] is None
    assert not clockwork


def test_a_failure_costs_no_scores(small_run, monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError("no clock")

    monkeypatch.setattr(runner, "measure_speed", fail)
    results = small_run(speed_rounds=1, progress=True)
    assert results.exit_code(strict=True) == 0
    assert "speed was not measured: RuntimeError: no clock" in capsys.readouterr().err


def test_a_slow_model_gets_fewer_rounds(small_run, clockwork, monkeypatch):
    monkeypatch.setattr(alternating, "SECONDS", 0.0)
    rows = small_run(speed_rounds=5, tasks=["needle"]).run["speed"]
    assert {row["rounds"] for row in rows} == {1}
