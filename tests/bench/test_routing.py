"""bench_routing: the plan is the share asked for, the prediction is the formula, the router is timed for real."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from attnpatch.bench import routing
from attnpatch.bench.routing import bench_routing, router_seconds, spread
from attnpatch.bench.runs import Bench, build_model
from attnpatch.bench.timing import choose_clock
from attnpatch.methods.flux import Flux, Router
from attnpatch.patching import AttnPatchError, UnsupportedModelError
from tests import zoo


def run(**changes):
    settings = {"lengths": (96, 40), "layers": 2, "repeats": 2, "method_options": {"local": 16, "sink": 2}}
    return bench_routing(zoo.TEXT_CONFIGS["qwen3"](), **{**settings, **changes})


@pytest.mark.parametrize(
    "omega, layers, plan",
    [
        (0.5, 2, [1, 0]), (0.5, 4, [1, 0, 1, 0]), (0.25, 4, [1, 1, 1, 0]), (0.75, 4, [1, 0, 0, 0]),
        (0, 3, [1, 1, 1]), (1, 3, [0, 0, 0]), (0.45, 28, None),
    ],
)  # fmt: skip
def test_sparse_layers_are_spread(omega, layers, plan):
    found = spread(omega, layers)
    assert plan is None or found == plan
    assert len(found) == layers
    assert abs(found.count(0) - omega * layers) <= 0.5
    halves = found[: layers // 2].count(0), found[-(layers // 2) :].count(0)
    assert abs(halves[0] - halves[1]) <= 1


def test_rows():
    seen = []
    result = run(progress=lambda *state: seen.append(state))
    assert result.name == "routing"
    short, long = result.rows
    assert (short["length"], long["length"]) == (40, 96)
    for row in result.rows:
        assert row["omega"] == 0.5
        assert row["predicted_seconds"] == pytest.approx((row["full_seconds"] + row["sparse_seconds"]) / 2)
        assert row["of_predicted"] == pytest.approx(row["seconds"] / row["predicted_seconds"])
        assert row["speedup"] == pytest.approx(row["full_seconds"] / row["seconds"])
        assert row["decode_of_predicted"] == pytest.approx(row["decode_ms"] / row["predicted_decode_ms"])
        assert row["router_share"] == pytest.approx(row["router_us"] / 1e6 / (row["full_seconds"] / 2))
        assert {name: len(times) for name, times in row["runs"].items()} == {"full": 2, "routed": 2, "sparse": 2}
    # One layer sees 16 and 2 sinks, the other everything.
    pairs = sum(min(i + 1, 16 + max(0, min(2, i - 15))) for i in range(96))
    assert long["mean_keys"] == pytest.approx((pairs / 96 + 97 / 2) / 2)
    assert seen[-1][0] == seen[-1][1] == 3 * (1 + 2 * 2)
    assert result.settings["router_parameters_per_layer"] == sum(one.numel() for one in Router(8, 8).parameters())
    assert "Ω = 0.5; predicted" in result.notes[0]


def test_unequal_shares_are_weighted_and_named(monkeypatch):

    def made_up(self, tokens, method):
        name = "full" if method is None else "sparse" if method.config.plan == "sparse" else "routed"
        seconds = {"full": 10.0, "routed": 7.0, "sparse": 2.0}[name]
        omega = {"full": None, "routed": 0.25, "sparse": 1.0}[name]
        return SimpleNamespace(
            prefill=seconds, decode=seconds / 100, peak=None, mean_keys=1.0, backend="x", omega=omega
        )

    monkeypatch.setattr(routing.Bench, "run", made_up)
    monkeypatch.setattr(routing, "router_seconds", lambda *_: 0.05)
    config = zoo.TEXT_CONFIGS["qwen3"]()
    config.num_hidden_layers = 4
    config.layer_types = ["full_attention"] * 4
    result = bench_routing(config, lengths=(40,), layers=4, omega=0.3, method_options={"local": 8})
    (row,) = result.rows
    assert row["predicted_seconds"] == pytest.approx(0.75 * 10 + 0.25 * 2)
    assert row["of_predicted"] == pytest.approx(7 / 8)
    assert row["predicted_decode_ms"] == pytest.approx(80)
    assert row["router_share"] == pytest.approx(0.05 / 2.5)
    assert result.settings["method"]["config"]["plan"] == [1, 1, 1, 0]
    assert (result.settings["omega"], result.settings["omega_asked"]) == (0.25, 0.3)
    assert "nearest to 0.3" in result.notes[0]
    assert "| 40 | 10.00 → 7.00 → 2.00 | 8.00 | 0.875 | 1.43x |" in result.to_markdown()


def test_the_router_that_is_timed_is_the_one_that_runs(monkeypatch):
    model = build_model(zoo.TEXT_CONFIGS["qwen3"](), 2, 64, "float32", "cpu")
    bench = Bench(model, choose_clock("auto", "cpu", 1), 1)
    method = Flux(router="untrained")
    with routing.attnpatch.apply(model, method):
        seen = []
        real = method.routers.logits
        monkeypatch.setattr(
            method.routers, "logits", lambda call, spans: seen.append((call, spans)) or real(call, spans)
        )
        with torch.no_grad():
            model(torch.arange(3, 43)[None], use_cache=False)
        forward = seen[:]
        seen.clear()
        assert router_seconds(bench, method, 40) > 0
    assert {call.layer for call, _ in seen} == {call.layer for call, _ in forward} == {0, 1}
    assert len(seen) == 2 * (1 + routing.DECISIONS)
    assert all(spans == forward[0][1] for _, spans in seen)
    assert {call.hidden.shape for call, _ in seen} == {call.hidden.shape for call, _ in forward}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"omega": 1.5}, "0 to 1, got 1.5"),
        ({"method_options": {"plan": "sparse"}}, "plan cannot be given"),
        ({"method_options": {"lcal": 3}}, "Did you mean 'local'"),
        ({"method_options": {"sparse": "stock"}}, "does not replace keys"),
        ({"lengths": ()}, "lengths"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_bad_arguments(changes, said):
    with pytest.raises(AttnPatchError, match=said):
        run(**changes)


def test_a_model_that_cannot_be_patched_is_refused_first():
    with pytest.raises(UnsupportedModelError):
        bench_routing(zoo.REFUSED_CONFIGS["falcon"](), lengths=(8,), layers=1)


@pytest.mark.parametrize("arm", ["triangle", "xattention", "stochastic"])
def test_other_arms(arm):
    result = run(lengths=(40,), repeats=1, method_options={"sparse": arm})
    assert result.settings["method"]["config"]["sparse"] == arm
    assert arm in result.title


def test_hybrid_models_count_the_layers_they_can_route():
    result = bench_routing(zoo.TEXT_CONFIGS["qwen3_next"](), lengths=(24,), layers=4, repeats=1, omega=1.0)
    assert result.settings["omega"] == 1.0
    assert len(result.settings["method"]["config"]["plan"]) == 1  # the other three are linear
