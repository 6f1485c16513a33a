"""What being patched costs: the identity method on one-token forwards, per layer and per forward."""

from __future__ import annotations

from statistics import linear_regression, median
from typing import Any

import torch
import transformers

import attnpatch
from attnpatch.bench.machine import machine
from attnpatch.bench.models import random_model
from attnpatch.bench.result import Column, Progress, Result, silent
from attnpatch.bench.timing import Clock, alternate, choose_clock, threads
from attnpatch.patching.errors import AttnPatchError

LAYERS = (2, 8, 24)
STEPS = 8  # decode steps per turn; they share one apply() and one prompt

COLUMNS = [
    Column("layers", "{layers}"),
    Column("stock µs", "{stock_us:,.0f}"),
    Column("patched µs", "{patched_us:,.0f}"),
    Column("extra µs", "{extra_us:,.0f}"),
    Column("extra µs / layer", "{extra_per_layer_us:.1f}"),
    Column("extra %", "{extra_percent:.1f}"),
]


def bench_overhead(
    *,
    layers: tuple[int, ...] = LAYERS,
    method: str = "stock",
    device: str = "cpu",
    threads_used: int | None = 1,
    clock: str = "auto",
    repeats: int = 40,
    progress: Progress = silent,
) -> Result:
    """Time one-token forwards behind a short prompt, unpatched and patched in turns, at several depths.

    The model is tiny (Qwen3, hidden 64), so that the host's own Python dominates. The extra time per forward is
    fitted over the depths: its slope is the cost per layer, its intercept the cost per forward.

    Raises AttnPatchError or ValueError for arguments out of range.
    """
    if len(set(layers)) < 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in layers):
        raise AttnPatchError(f"layers must be two or more different depths >= 1, got {layers!r}.")
    if repeats < 1:
        raise AttnPatchError(f"repeats must be at least 1, got {repeats}.")
    depths = sorted(set(layers))
    with threads(threads_used) as count:
        timer = choose_clock(clock, device, count)
        facts = machine(device)
        rows = []
        for index, depth in enumerate(depths):
            progress(index, len(depths), f"{depth} layers")
            rows.append(_measure(_model(depth, device), method, depth, timer, repeats))
        progress(len(depths), len(depths), "done")
    slope, intercept = linear_regression(depths, [row["extra_us"] for row in rows])
    settings = {
        "method": method,
        "device": device,
        "clock": timer.name,
        "repeats": repeats,
        "steps_per_repeat": STEPS,
        "us_per_layer": slope,
        "us_per_forward": intercept,
    }
    notes = [
        f"{slope:.1f} µs per layer and {intercept:.0f} µs per forward (least squares over the depths)",
        f"one-token forwards behind a 16-token prompt; {timer}; runs alternate, medians of {repeats * STEPS} pairs",
    ]
    title = f"What the patch itself costs: method {method!r}, {device}"
    return Result("overhead", title, settings, COLUMNS, rows, facts, notes, _draw)


def _model(depth: int, device: str) -> transformers.PreTrainedModel:
    config = transformers.Qwen3Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return random_model(config, dtype=torch.float32, device=device)


def _measure(model: Any, method: str, depth: int, clock: Clock, repeats: int) -> dict[str, Any]:
    """Both cases in turns; the extra time is the median over pairs, which cancels what drifts slowly."""
    prompt = torch.arange(3, 19, device=model.device)[None]

    @torch.no_grad()
    def steps() -> list[float]:
        cache = model(prompt, use_cache=True).past_key_values
        token = prompt[:, -1:]
        return [clock.time(lambda: model(token, past_key_values=cache))[0] for _ in range(STEPS)]

    def patched() -> list[float]:
        with attnpatch.apply(model, method):
            return steps()

    turns = alternate({"stock": steps, "patched": patched}, repeats, warmup=2)
    stock, ours = ([1e6 * seconds for turn in turns[case] for seconds in turn] for case in ("stock", "patched"))
    extra = median(after - before for before, after in zip(stock, ours, strict=True))
    return {
        "layers": depth,
        "stock_us": median(stock),
        "patched_us": median(ours),
        "extra_us": extra,
        "extra_per_layer_us": extra / depth,
        "extra_percent": 100 * extra / median(stock),
    }


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    depths, extra = [row["layers"] for row in rows], [row["extra_us"] for row in rows]
    slope, intercept = linear_regression(depths, extra)
    axes.plot(depths, extra, "o", label="measured")
    axes.plot(depths, [intercept + slope * depth for depth in depths], label=f"{slope:.1f} µs per layer")
    axes.set(xlabel="layers", ylabel="extra µs per one-token forward")
    axes.legend()
