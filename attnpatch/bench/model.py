"""End to end: prefill and one decode step of a whole model, stock against patched, by prompt length."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

import attnpatch
from attnpatch.bench.machine import machine
from attnpatch.bench.result import Column, Progress, Result, silent
from attnpatch.bench.runs import DTYPES, LENGTHS, Bench, Run, build_model, check, load_config, middle, shape_of
from attnpatch.bench.timing import Clock, alternate, choose_clock, threads
from attnpatch.patching.method import build_method
from attnpatch.patching.sites import inspect_model

__all__ = ["DTYPES", "LENGTHS", "bench_model", "load_config"]

MARGIN = 0.05  # a difference below this is called noise
CHECK_LENGTH = 2048  # the exactness check builds dense weight matrices: longer prompts would not fit

COLUMNS = [
    Column("tokens", "{length:,}"),
    Column("prefill s", "{stock_seconds:.2f} → {patched_seconds:.2f}"),
    Column("speed-up", "{speedup:.2f}x"),
    Column("decode ms", "{stock_decode_ms:.1f} → {patched_decode_ms:.1f}"),
    Column("mean keys", "{stock_mean_keys:,.0f} → {mean_keys:,.0f}"),
    Column("peak MiB", "{stock_peak_mib:,.0f} → {patched_peak_mib:,.0f}"),
    Column("backend", "{backend}", left=True),
]


def bench_model(
    config: str | PreTrainedConfig | None = None,
    *,
    lengths: tuple[int, ...] = LENGTHS,
    method: str = "sliding",
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
    """Time prefill (`use_cache=True, logits_to_keep=1`) and decode of a random model, stock and patched in turns.

    Args:
        config: a Hub id, folder or `sandbox:text` to take the shapes from, or a config; default Qwen3-0.6B's.
        lengths: prompt lengths in tokens, batch 1.
        method, method_options: what `attnpatch.apply` gets; stock is the model without a patch.
        layers: decoder layers to build, None for all. Time per layer is that of the full depth.
        threads_used: torch threads, None for torch's own choice.
        clock: "cpu", "wall" or "auto" (see `choose_clock`).
        repeats: timed runs per case and length, after a warm-up; the median is reported.
        decode_steps: one-token forwards timed behind every prefill.

    Raises AttnPatchError or ValueError for arguments out of range, before anything is built.
    """
    built = build_method((method, method_options or {}))
    check(lengths, dtype, repeats, decode_steps)
    with threads(threads_used) as in_use:
        timer = choose_clock(clock, device, in_use)
        model = build_model(config, layers, max(lengths) + decode_steps, dtype, device)
        attnpatch.apply(model, built).remove()  # refuse before the long part
        facts = machine(device)
        bench = _Bench(model, built, timer, decode_steps)
        rows = bench.rows(sorted(set(lengths)), repeats, progress)
        checked = max((n for n in lengths if n <= CHECK_LENGTH), default=CHECK_LENGTH)
        difference = bench.difference(checked)
    shape = shape_of(model)
    settings = {
        "model": shape,
        "method": {"name": built.name, "config": built.config.model_dump(mode="json")},
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device,
        "clock": timer.name,
        "repeats": repeats,
        "decode_steps": decode_steps,
        "baseline": f"transformers {shape['attention']}",
        "max_logit_difference": difference,
        "check_length": checked,
    }
    title = f"{built!r} against transformers' {shape['attention']}, {settings['dtype']}"
    return Result("model", title, settings, COLUMNS, rows, facts, _notes(settings, rows), _draw)


class _Bench(Bench):
    def __init__(self, model: PreTrainedModel, method: attnpatch.Method, clock: Clock, decode_steps: int) -> None:
        super().__init__(model, clock, decode_steps)
        self.method = method

    def rows(self, lengths: list[int], repeats: int, progress: Progress) -> list[dict[str, Any]]:
        warmup = 1 if self.device.type == "cuda" else 0  # there every new length may compile and tune
        done, total = count(1), 2 + 2 * len(lengths) * (warmup + repeats)
        rows = []
        for length in (None, *lengths):  # None: one round at the shortest length, to load libraries and caches
            text = "warming up" if length is None else f"{length:,} tokens"
            step = partial(_step, progress, done, total, text)
            tokens = self.tokens(length or lengths[0])
            cases = {"stock": partial(self.run, tokens, None), "patched": partial(self.run, tokens, self.method)}
            if length is None:
                alternate(cases, 0, warmup=1, step=step)
                continue
            runs = alternate(cases, repeats, warmup=warmup, step=step)
            rows.append(_row(length, runs["stock"], runs["patched"]))
        return rows

    @torch.no_grad()
    def difference(self, length: int) -> float | None:
        """Largest logit difference at one prompt between the method's kernel and dense masked attention.

        None if the method did not run on a kernel of ours.
        """
        tokens = self.tokens(length)
        with attnpatch.apply(self.model, self.method) as patch:
            fast = self.model(tokens, use_cache=False, logits_to_keep=1).logits
            if set(patch.report().backends) <= {site.base for site in inspect_model(self.model).sites}:
                return None
        with attnpatch.apply(self.model, self.method):  # anew: methods that draw at random then draw the same
            dense = self.model(tokens, use_cache=False, logits_to_keep=1, output_attentions=True).logits
        return float((fast - dense).abs().max())


def _step(progress: Progress, done: Iterator[int], total: int, text: str) -> None:
    progress(next(done), total, text)


def _row(length: int, stock: list[Run], patched: list[Run]) -> dict[str, Any]:
    times = {case: (middle(runs, "prefill"), middle(runs, "decode")) for case, runs in _both(stock, patched)}
    return {
        "length": length,
        "stock_seconds": times["stock"][0],
        "patched_seconds": times["patched"][0],
        "speedup": times["stock"][0] / times["patched"][0],
        "stock_decode_ms": times["stock"][1] * 1e3,
        "patched_decode_ms": times["patched"][1] * 1e3,
        "decode_speedup": times["stock"][1] / times["patched"][1],
        "stock_mean_keys": (length + 1) / 2,
        "mean_keys": middle(patched, "mean_keys"),
        "stock_peak_mib": middle(stock, "peak"),
        "patched_peak_mib": middle(patched, "peak"),
        "backend": patched[-1].backend,
        "runs": {case: [run.prefill for run in runs] for case, runs in _both(stock, patched)},
    }


def _both(stock: list[Run], patched: list[Run]) -> tuple[tuple[str, list[Run]], ...]:
    return ("stock", stock), ("patched", patched)


def _notes(settings: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    shape = settings["model"]
    depth = f"{shape['num_hidden_layers']} layer{'s' if shape['num_hidden_layers'] > 1 else ''}"
    slower = [f"{row['length']:,} ({row['speedup']:.2f}x)" for row in rows if row["speedup"] < 1 - MARGIN]
    unit = (
        "CPU time of the process, so that other processes do not count" if settings["clock"] == "cpu" else "wall time"
    )
    notes = [
        f"prefill is {_wins(rows)}; more than {MARGIN:.0%} slower at: {', '.join(slower) or 'none'}",
        f"{shape['class']}, {depth}, hidden {shape['hidden_size']}, "
        f"{shape['num_attention_heads']}/{shape['num_key_value_heads']} heads, random weights, batch 1",
        f"{unit}; runs alternate, median of {settings['repeats']}; peak MiB is over what was in use before",
        "decode: transformers' DynamicCache copies all keys and values at every step; both sides pay for that, unless "
        "the method drops keys",
    ]
    if settings["max_logit_difference"] is not None:
        notes.append(
            f"exactness: last logits within {settings['max_logit_difference']:.1e} of dense masked attention "
            f"by the same rule, at {settings['check_length']:,} tokens"
        )
    return notes


def _wins(rows: list[dict[str, Any]]) -> str:
    """From which length on the patched model is faster at every longer one, too."""
    first = None
    for row in reversed(rows):
        if row["speedup"] <= 1 + MARGIN:
            break
        first = row["length"]
    return "not faster at the longest length" if first is None else f"faster from {first:,} tokens on"


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    lengths = [row["length"] for row in rows]
    axes.plot(lengths, [row["speedup"] for row in rows], marker="o", label="prefill")
    axes.plot(lengths, [row["decode_speedup"] for row in rows], marker="s", label="one decode step")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set(xlabel="prompt length in tokens", ylabel="speed-up over stock")
    axes.legend()
