"""Every sparse kernel beside dense attention: speed-up, share of the counted floor, exactness, by length.

The floor counts the (query, key) pairs that a kernel's operator has to score: a window its visible pairs; exact
slots all slots of the window, as causality hides about half of them at random places; buckets and kept blocks the
causal pairs inside. A fraction of 1 means: as fast per pair as torch's dense causal kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import exp, log
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from attnpatch.bench.machine import machine
from attnpatch.bench.model import DTYPES, LENGTHS
from attnpatch.bench.result import Column, Progress, Result, silent
from attnpatch.bench.timing import Clock, alternate, choose_clock, threads
from attnpatch.kernels import (
    Blocks,
    Causal,
    PermutedBuckets,
    PermutedWindow,
    Rule,
    Window,
    attend,
    row_outputs,
    row_weights,
    visible_mask,
)
from attnpatch.patching.errors import AttnPatchError, unknown_name

SINKS = 4
BLOCK = 128
SAMPLE = 16  # query rows checked against float64

COLUMNS = [
    Column("tokens", "{length:,}"),
    Column("kernel", "{kernel}", left=True),
    Column("keys", "{window}"),
    Column("ms", "{milliseconds:,.0f}"),
    Column("speed-up", "{speedup:.2f}x"),
    Column("ideal", "{ideal:.2f}x"),
    Column("of the floor", "{fraction:.2f}"),
    Column("mean keys", "{mean_keys:,.0f}"),
    Column("max error", "{error:.1e}"),
    Column("faster from", "{crossover}"),
    Column("backend", "{backend}", left=True),
]


@dataclass(frozen=True)
class Kernel:
    """One line of the table. rule(window, n, query heads); floor(rule, n): pairs that the operator has to score."""

    name: str
    rule: Callable[[int, int, int], Rule]
    floor: Callable[[Rule, int], float]


def _visible(rule: Rule, n: int) -> float:
    return rule.pairs(0, n, n)


def _slots(rule: Rule, n: int) -> float:
    return min(n * (rule.before + rule.after + 1), n * n)


@cache
def _shuffled(n: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(n))


def _kept_blocks(window: int, n: int, heads: int) -> Blocks:
    """Lists as XAttention makes them: each head keeps its first and its own block, the others are drawn at random."""
    block = min(BLOCK, max(window // 4, 1))
    count = -(-n // block)
    draw = torch.rand(heads, count, count, generator=torch.Generator().manual_seed(n)).tril_()
    draw[:, :, 0] = 1
    draw.diagonal(0, 1, 2).fill_(1)
    best = draw.topk(min(window // block, count)).indices
    return Blocks(torch.zeros_like(draw, dtype=torch.bool).scatter_(2, best, True), block)


KERNELS = [
    Kernel("window", lambda w, *_: Window(w), _visible),
    Kernel(f"window, {SINKS} sinks", lambda w, *_: Window(w - SINKS, sink=SINKS), _visible),
    Kernel("exact slots", lambda w, *_: PermutedWindow(_shuffled, before=w // 2, after=w - 1 - w // 2), _slots),
    Kernel("sorted buckets", lambda w, *_: PermutedBuckets(_shuffled, w), _visible),
    Kernel("buckets + previous", lambda w, *_: PermutedBuckets(_shuffled, w, previous=1), _visible),
    Kernel("kept blocks", _kept_blocks, _visible),
]


def bench_kernels(
    *,
    lengths: tuple[int, ...] = LENGTHS,
    windows: tuple[int, ...] = (1024, 2048),
    dtype: str = "float32",
    device: str = "cpu",
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 128,
    threads_used: int | None = None,
    clock: str = "auto",
    repeats: int = 5,
    backend: str = "auto",
    progress: Progress = silent,
) -> Result:
    """Time all kernels and torch's dense causal attention in turns, batch 1, tensors as Hugging Face lays them out.

    Args:
        lengths: prompt lengths in tokens.
        windows: the operator's size in keys: window (sinks included), slots, bucket size, or keys in kept blocks.
        threads_used: torch threads, None for torch's own choice.
        clock: "cpu", "wall" or "auto" (see `choose_clock`).
        repeats: timed turns after a warm-up; a speed-up is the median over turns of dense / kernel.
        backend: passed to `attend`.

    Raises AttnPatchError for arguments out of range.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    for name, values, least in (("lengths", lengths, 2), ("windows", windows, SINKS + 1)):
        if not values or min(values) < least:
            raise AttnPatchError(f"{name} must be numbers of tokens from {least} on, got {values!r}.")
    if repeats < 1:
        raise AttnPatchError(f"repeats must be at least 1, got {repeats}.")
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise AttnPatchError(f"heads must be a multiple of kv_heads, got {heads} and {kv_heads}.")
    lengths, windows = tuple(sorted(set(lengths))), tuple(sorted(set(windows)))
    with threads(threads_used) as in_use:
        timer = choose_clock(clock, device, in_use)
        facts = machine(device)
        bench = _Bench(timer, windows, backend, (heads, kv_heads, head_dim), DTYPES[dtype])
        runs = (1 + repeats) * bench.cases * len(lengths)
        done = 0
        rows = []
        for length in lengths:

            def step(length: int = length) -> None:
                nonlocal done
                done += 1
                progress(done, runs, f"{length:,} tokens")

            progress(done, runs, f"{length:,} tokens")
            rows += bench.rows(length, repeats, step)
    _add_crossovers(rows)
    settings = {
        "lengths": list(lengths),
        "windows": list(windows),
        "dtype": dtype,
        "device": device,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "clock": timer.name,
        "repeats": repeats,
        "sampled_rows": SAMPLE,
    }
    notes = [
        f"dense is F.scaled_dot_product_attention(is_causal=True); {timer}; runs alternate, medians of {repeats}",
        "keys: window size (sinks included), slots of the window, bucket size, or keys in kept blocks",
        "ideal: dense pairs / pairs the operator must score (slots: all; else those visible)",
        f"of the floor: speed-up / ideal; max error: {SAMPLE} rows against a float64 reference",
    ]
    title = f"Kernels against dense causal attention, {dtype}, {heads} heads, {kv_heads} KV heads, D={head_dim}"
    return Result("kernels", title, settings, COLUMNS, rows, facts, notes, _draw)


class _Bench:
    def __init__(self, clock: Clock, windows, backend: str, shape: tuple[int, int, int], dtype: torch.dtype):
        self.clock, self.windows, self.backend, self.shape, self.dtype = clock, windows, backend, shape, dtype
        self.floors = {kernel.name: kernel.floor for kernel in KERNELS}
        self.cases = 1 + len(windows) * len(KERNELS)

    def rows(self, n: int, repeats: int, step: Callable[[], None]) -> list[dict[str, Any]]:
        """The table's rows for prompts of n tokens."""
        q, k, v = self._inputs(n)
        grouped = q.shape[1] != k.shape[1]

        def dense():
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

        def timed(run):
            with torch.inference_mode():
                return self.clock.time(run)[0]

        cases = {("dense", None): lambda: timed(dense)}
        rules = {(one.name, w): one.rule(w, n, self.shape[0]) for w in self.windows for one in KERNELS}
        for key, rule in rules.items():
            cases[key] = lambda rule=rule: timed(lambda: attend(q, k, v, rule, backend=self.backend))
        seconds = alternate(cases, repeats, step=step)
        base = seconds["dense", None]
        exact = tuple(x.double() for x in (q, k, v))
        rows = [_row(n, "dense", None, base, base, Causal().pairs(0, n, n), _error(dense(), Causal(), exact))]
        for (name, window), rule in rules.items():
            with torch.inference_mode():
                result = attend(q, k, v, rule, backend=self.backend)
            error = _error(result.output, rule, exact)
            row = _row(n, name, window, base, seconds[name, window], self.floors[name](rule, n), error)
            row["mean_keys"] = rule.pairs(0, n, n) / n
            row["backend"] = result.backend
            rows.append(row)
        return rows

    def _inputs(self, n: int) -> tuple[torch.Tensor, ...]:
        heads, kv_heads, dim = self.shape
        make = torch.Generator().manual_seed(0)
        device = self.clock.device
        return tuple(
            torch.randn(1, n, count, dim, generator=make).to(device, self.dtype).transpose(1, 2)
            for count in (heads, kv_heads, kv_heads)
        )


def _error(output, rule: Rule, exact: tuple[torch.Tensor, ...]) -> float:
    """Largest absolute error over some query rows, first and last included; exact: q, k, v in float64."""
    q, k, v = exact
    n = q.shape[2]
    rows = torch.linspace(0, n - 1, min(SAMPLE, n), device=q.device).round().long().unique()
    weights = row_weights(q[:, :, rows], k, visible=visible_mask(rule, rows, n, 1))
    return (output[:, :, rows].double() - row_outputs(weights, v)).abs().max().item()


def _row(n, name, window, base, seconds, floor, error) -> dict[str, Any]:
    speedup = median(before / after for before, after in zip(base, seconds, strict=True))
    ideal = Causal().pairs(0, n, n) / floor
    return {
        "length": n,
        "kernel": name,
        "window": "" if window is None else window,
        "milliseconds": 1000 * median(seconds),
        "speedup": speedup,
        "ideal": ideal,
        "fraction": speedup / ideal,
        "mean_keys": floor / n,
        "error": error,
        "crossover": None,
        "backend": "sdpa",
        "runs": seconds,
    }


def _add_crossovers(rows: list[dict[str, Any]]) -> None:
    """From which length on a kernel beats dense, interpolated between the measured lengths."""
    lines: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        if row["kernel"] != "dense":
            lines.setdefault((row["kernel"], row["window"]), []).append(row)
    for line in lines.values():
        text = _crossover([(row["length"], row["speedup"]) for row in line])
        for row in line:
            row["crossover"] = text


def _crossover(points: list[tuple[int, float]]) -> str:
    losing = [t for t, (_, speedup) in enumerate(points) if speedup < 1]
    if not losing:
        return f"<= {points[0][0]:,}"
    last = losing[-1]
    if last == len(points) - 1:
        return f"> {points[-1][0]:,}"
    (low, below), (high, above) = points[last], points[last + 1]
    share = log(1 / below) / log(above / below)
    return f"{round(exp(log(low) + share * log(high / low))):,}"


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["kernel"] != "dense":
            lines.setdefault(f"{row['kernel']} {row['window']}", []).append(row)
    for label, line in lines.items():
        axes.plot([row["length"] for row in line], [row["speedup"] for row in line], "o-", label=label)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="prompt length in tokens", ylabel="speed-up over dense")
    axes.legend(fontsize=7)
