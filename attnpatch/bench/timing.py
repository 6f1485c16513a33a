"""Timing that holds on a busy machine: runs that alternate, medians, and a clock that says what it counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")
CLOCKS = ("auto", "cpu", "wall")


@dataclass(frozen=True)
class Clock:
    """name: "cpu" (processor seconds of this process, all threads) or "wall"; device: what to wait for."""

    name: str
    device: torch.device

    def __str__(self) -> str:
        return "CPU time of the process" if self.name == "cpu" else "wall time"

    def time(self, run: Callable[[], T]) -> tuple[float, T]:
        """(seconds, what `run` returned); on CUDA everything queued before and by `run` is waited for."""
        read = time.process_time if self.name == "cpu" else time.perf_counter
        self._wait()
        start = read()
        result = run()
        self._wait()
        return read() - start, result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def check_device(name: str) -> torch.device:
    """The device called `name`, "cpu" or "cuda[:index]"; raises ValueError if it is not there."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ValueError(f"device must be cpu, cuda or cuda:<index>, got {name!r}.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices.")
    return torch.device(name)


def choose_clock(name: str = "auto", device: str = "cpu", threads: int | None = None) -> Clock:
    """The clock to use. "auto": CPU time for one thread on the CPU, where other processes then do not count.

    Several threads or a GPU need "wall": CPU time would add the threads up, or miss the GPU.

    Raises ValueError for an unknown name or device, and for "cpu" on another device.
    """
    device = check_device(device)
    if name not in CLOCKS:
        raise ValueError(f"clock must be one of {', '.join(CLOCKS)}, got {name!r}.")
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"clock='cpu' does not see the work of a {device.type} device; use clock='wall'.")
    if name == "auto":
        one_thread = (threads or torch.get_num_threads()) == 1
        name = "cpu" if device.type == "cpu" and one_thread else "wall"
    return Clock(name, device)


def alternate(
    cases: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    warmup: int = 1,
    step: Callable[[], None] = lambda: None,
) -> dict[str, list[Any]]:
    """Run every case `repeats` times in turns and return what each run returned, by case.

    Turns go forwards and backwards (A B, B A, ...): a drifting machine then hits all cases alike. The first
    `warmup` turns are run and dropped. `step` is called after every run.
    """
    results: dict[str, list[Any]] = {name: [] for name in cases}
    for turn in range(warmup + repeats):
        names = list(cases) if turn % 2 == 0 else list(reversed(cases))
        for name in names:
            result = cases[name]()
            if turn >= warmup:
                results[name].append(result)
            step()
    return results


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Run torch on `count` threads (None: as it is) for the length of a `with` block; yields the number in use.

    Raises ValueError for a number below 1.
    """
    before = torch.get_num_threads()
    if count is not None and count < 1:
        raise ValueError(f"threads must be at least 1, got {count}.")
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)
