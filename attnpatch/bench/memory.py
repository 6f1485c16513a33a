"""Peak memory of one run: CUDA's own counter, or the process's high-water mark where Linux lets it be reset."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_memory(run: Callable[[], T], device: torch.device | str = "cpu") -> tuple[float | None, T]:
    """(MiB that `run` needed at its peak over what was in use before, its result).

    None where it cannot be measured: a CPU process that cannot reset its high-water mark.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20, result
    before = _reset_high_water()
    result = run()
    if before is None:
        return None, result
    return max(0.0, _read("VmHWM") - before) / 1024, result


def _reset_high_water() -> float | None:
    """Resident KiB now, with the high-water mark set back to it; None if the system does not allow that."""
    try:
        _RESET.write_text("5")
        return _read("VmRSS")
    except (OSError, ValueError):
        return None


def _read(field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{_STATUS} has no {field}")
    return float(found[1])
