"""Clocks and memory: tokens per second of prefill and decode apart, CUDA peak per cell, process peak per run."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock read next to it means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Meter:
    """Tokens and seconds of single batches; the first one is the warm-up.

    With a single batch there is nothing but the warm-up: it is reported, and marked.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[int, float]] = []

    @contextmanager
    def measure(self, tokens: int, device: torch.device) -> Iterator[None]:
        """Time the block as one batch of `tokens` real tokens."""
        synchronise(device)
        start = time.perf_counter()
        yield
        synchronise(device)
        self.batches.append((tokens, time.perf_counter() - start))

    def to_dict(self) -> dict[str, Any] | None:
        """`tokens_per_s` (median over batches), `tokens` and `seconds` of the timed batches; None if none ran."""
        if not self.batches:
            return None
        timed = self.batches[1:] or self.batches
        return {
            "tokens_per_s": statistics.median(tokens / seconds for tokens, seconds in timed),
            "tokens": sum(tokens for tokens, _ in timed),
            "seconds": sum(seconds for _, seconds in timed),
            "batches": len(timed),
            "warm_up_only": len(self.batches) == 1,
        }


def reset_cuda_peak() -> None:
    """Start a new peak measurement on every GPU."""
    for index in range(torch.cuda.device_count()):
        torch.cuda.reset_peak_memory_stats(index)


def cuda_peak() -> dict[str, int] | None:
    """Peak bytes allocated per GPU since `reset_cuda_peak()`; None on a machine without one."""
    count = torch.cuda.device_count()
    return {f"cuda:{i}": torch.cuda.max_memory_allocated(i) for i in range(count)} if count else None


def process_peak() -> int | None:
    """Peak resident bytes of this process since it started; it never falls, so it belongs to a run, not a cell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
