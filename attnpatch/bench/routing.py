"""Layers routed to a sparse arm: is prefill as fast as the share Ω of sparse layers predicts? What does a router cost?

A fixed plan stands in for the router's decisions, so that Ω is what was asked for; stock, the plan and the arm in all
layers take turns. The router is timed apart, on one layer's input of the same length.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

import attnpatch
from attnpatch.bench.machine import machine
from attnpatch.bench.result import Column, Progress, Result, silent
from attnpatch.bench.runs import LENGTHS, Bench, Run, build_model, check, middle, shape_of
from attnpatch.bench.timing import alternate, choose_clock, threads
from attnpatch.methods.flux import Flux
from attnpatch.methods.flux.router import is_full
from attnpatch.patching.calls import Call
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.forward import Forward
from attnpatch.patching.sites import inspect_model

DECISIONS = 20  # of each layer's router, per length

COLUMNS = [
    Column("tokens", "{length:,}"),
    Column("prefill s, full → routed → sparse", "{full_seconds:.2f} → {seconds:.2f} → {sparse_seconds:.2f}"),
    Column("predicted s", "{predicted_seconds:.2f}"),
    Column("measured / predicted", "{of_predicted:.3f}"),
    Column("speed-up", "{speedup:.2f}x"),
    Column("decode ms, full → routed → sparse", "{full_decode_ms:.1f} → {decode_ms:.1f} → {sparse_decode_ms:.1f}"),
    Column("measured / predicted", "{decode_of_predicted:.3f}"),
    Column("router µs / layer", "{router_us:,.0f}"),
    Column("of a full layer", "{router_share:.2%}"),
]


def bench_routing(
    config: str | PreTrainedConfig | None = None,
    *,
    omega: float = 0.5,
    lengths: tuple[int, ...] = LENGTHS,
    method_options: dict[str, Any] | None = None,
    layers: int | None = 2,
    dtype: str = "float32",
    device: str = "cpu",
    threads_used: int | None = None,
    clock: str = "auto",
    repeats: int = 3,
    decode_steps: int = 8,
    progress: Progress = silent,
) -> Result:
    """Time flux with a share `omega` of sparse layers, spread evenly, beside stock and beside all layers sparse.

    Predicted: (1 - omega) x stock + omega x all sparse. The share is that of whole layers nearest to `omega`.

    Args:
        method_options: of flux, such as sparse, sink and local; router and plan are not among them.
        the rest: as in `bench_model`.

    Raises AttnPatchError or ValueError for arguments out of range, before anything is built.
    """
    options = dict(method_options or {})
    taken = sorted({"router", "plan"} & set(options))
    if taken:
        raise AttnPatchError(f"omega={omega} makes the plan, so {' and '.join(taken)} cannot be given beside it.")
    if not 0 <= omega <= 1:
        raise AttnPatchError(f"omega is the share of sparse layers, 0 to 1, got {omega}.")
    Flux(plan="full", **options)
    check(lengths, dtype, repeats, decode_steps)
    with threads(threads_used) as in_use:
        timer = choose_clock(clock, device, in_use)
        model = build_model(config, layers, max(lengths) + decode_steps, dtype, device)
        with attnpatch.apply(model, Flux(plan="full", **options)) as patch:  # refuse before the long part
            plan = spread(omega, len(patch.site_names))
        facts = machine(device)
        methods = {"full": None, "routed": Flux(plan=plan, **options), "sparse": Flux(plan="sparse", **options)}
        routers = Flux(router="untrained", **options)
        attnpatch.apply(model, routers).remove()
        rows = _rows(Bench(model, timer, decode_steps), methods, routers, sorted(set(lengths)), repeats, progress)
    shape, routed = shape_of(model), methods["routed"]
    settings = {
        "model": shape,
        "method": {"name": routed.name, "config": routed.config.model_dump(mode="json")},
        "omega": plan.count(0) / len(plan),
        "omega_asked": omega,
        "router_parameters_per_layer": sum(one.numel() for one in routers.routers.parameters()) // len(plan),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device,
        "clock": timer.name,
        "repeats": repeats,
        "decode_steps": decode_steps,
        "decisions": DECISIONS,
        "baseline": f"transformers {shape['attention']}",
    }
    title = (
        f"flux with {plan.count(0)} of {len(plan)} layers sparse ({routed.config.sparse}, sink {routed.config.sink}, "
        f"local {routed.config.local}) against transformers' {shape['attention']}, {settings['dtype']}"
    )
    return Result("routing", title, settings, COLUMNS, rows, facts, _notes(settings, rows), _draw)


def spread(omega: float, layers: int) -> list[int]:
    """One gate per layer, 1 full and 0 sparse: the number of sparse layers nearest to omega, evenly spread."""
    sparse = round(omega * layers)
    return [int((index + 1) * sparse // layers == index * sparse // layers) for index in range(layers)]


def _rows(
    bench: Bench, methods: dict[str, Flux | None], routers: Flux, lengths: list[int], repeats: int, progress: Progress
) -> list[dict[str, Any]]:
    warmup = 1 if bench.device.type == "cuda" else 0  # there every new length may compile and tune
    depth = bench.model.config.get_text_config(decoder=True).num_hidden_layers
    done, total = count(1), len(methods) * (1 + len(lengths) * (warmup + repeats))
    rows = []
    for length in (None, *lengths):  # None: one round at the shortest length, to load libraries and caches
        text = "warming up" if length is None else f"{length:,} tokens"
        tokens = bench.tokens(length or lengths[0])
        cases = {name: partial(bench.run, tokens, method) for name, method in methods.items()}

        def step(text: str = text) -> None:
            progress(next(done), total, text)

        if length is None:
            alternate(cases, 0, warmup=1, step=step)
            continue
        runs = alternate(cases, repeats, warmup=warmup, step=step)
        rows.append(_row(length, runs, router_seconds(bench, routers, length), depth))
    return rows


@torch.no_grad()
def router_seconds(bench: Bench, method: Flux, length: int) -> float:
    """Median time of one layer's decision about a prompt of `length` tokens: read it, pool, router, argmax."""
    text = inspect_model(bench.model)
    width = bench.model.config.get_text_config(decoder=True).hidden_size
    hidden = torch.randn(1, length, width, device=bench.device, dtype=bench.model.dtype)
    sites = [site for site in text.sites if str(site.layer) in method.routers.layers]
    calls = [_call(text.base.get_submodule(site.name), site, hidden) for site in sites]

    def decide(call: Call) -> list[bool]:
        return is_full(method.routers.logits(call, [(0, length)]))

    for call in calls:
        decide(call)
    return median(bench.clock.time(partial(decide, call))[0] for _ in range(DECISIONS) for call in calls)


def _call(module: nn.Module, site: Any, hidden: torch.Tensor) -> Call:
    """A prompt's call at one site, of which a router reads the layer's input alone."""
    length = hidden.shape[1]
    states = torch.empty((1, site.heads or 1, length, 1), device="meta")
    return Call(site, Forward(q_len=length), None, module, states, states, states, None, None, {}, hidden)


def _row(length: int, runs: dict[str, list[Run]], router: float, layers: int) -> dict[str, Any]:
    omega = runs["routed"][0].omega  # as counted, not as asked
    prefill, decode = ({name: middle(own, part) for name, own in runs.items()} for part in ("prefill", "decode"))
    predicted, predicted_decode = (one["full"] * (1 - omega) + one["sparse"] * omega for one in (prefill, decode))
    return {
        "length": length,
        "omega": omega,
        "full_seconds": prefill["full"],
        "sparse_seconds": prefill["sparse"],
        "seconds": prefill["routed"],
        "predicted_seconds": predicted,
        "of_predicted": prefill["routed"] / predicted,
        "speedup": prefill["full"] / prefill["routed"],
        "full_decode_ms": decode["full"] * 1e3,
        "sparse_decode_ms": decode["sparse"] * 1e3,
        "decode_ms": decode["routed"] * 1e3,
        "predicted_decode_ms": predicted_decode * 1e3,
        "decode_of_predicted": decode["routed"] / predicted_decode,
        "decode_speedup": decode["full"] / decode["routed"],
        "router_us": router * 1e6,
        "router_share": router / (prefill["full"] / layers),
        "full_mean_keys": (length + 1) / 2,
        "mean_keys": middle(runs["routed"], "mean_keys"),
        "peak_mib": {name: middle(own, "peak") for name, own in runs.items()},
        "backend": runs["routed"][-1].backend,
        "runs": {name: [run.prefill for run in own] for name, own in runs.items()},
    }


def _notes(settings: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    shape, omega, asked = settings["model"], settings["omega"], settings["omega_asked"]
    unit = (
        "CPU time of the process, so that other processes do not count" if settings["clock"] == "cpu" else "wall time"
    )
    parameters = f"{settings['router_parameters_per_layer']:,}"
    nearest = "" if abs(omega - asked) < 1e-9 else f", the share of whole layers nearest to {asked:g}"
    return [
        f"Ω = {omega:.3g}{nearest}; predicted = (1 - Ω) x all full (stock) + Ω x all sparse",
        f"prefill takes {_range(rows, 'of_predicted')} times what Ω predicts, decode "
        f"{_range(rows, 'decode_of_predicted')} times",
        f"router: {parameters} parameters per layer, random weights; a decision takes the layer's input at both ends "
        "of the prompt, projects it to queries and pools them; a full layer is stock prefill over all layers",
        f"{shape['class']}, {shape['num_hidden_layers']} layers, hidden {shape['hidden_size']}, "
        f"{shape['num_attention_heads']}/{shape['num_key_value_heads']} heads, random weights, batch 1",
        f"{unit}; runs alternate, median of {settings['repeats']}; {settings['decisions']} decisions of each router",
    ]


def _range(rows: list[dict[str, Any]], name: str) -> str:
    low, high = min(row[name] for row in rows), max(row[name] for row in rows)
    return f"{low:.3f}" if len(rows) == 1 else f"{low:.3f} to {high:.3f}"


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    lengths = [row["length"] for row in rows]
    axes.plot(lengths, [row["speedup"] for row in rows], marker="o", label="prefill")
    predicted = [row["full_seconds"] / row["predicted_seconds"] for row in rows]
    axes.plot(lengths, predicted, marker="o", linestyle="--", label="prefill, predicted")
    axes.plot(lengths, [row["decode_speedup"] for row in rows], marker="s", label="one decode step")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set(xlabel="prompt length in tokens", ylabel="speed-up over stock")
    axes.legend()
