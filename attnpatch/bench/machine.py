"""The machine and the versions behind a number: as a dict for files, as a line under a table."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("attnpatch", "torch", "transformers", "safetensors", "huggingface_hub", "pydantic", "typer", "numpy")
OPTIONAL = ("lm_eval", "scipy", "pandas", "matplotlib", "psutil", "peft", "accelerate", "datasets")


def versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed version of each package, None where it is absent."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a timing depends on: processor, cores, threads, memory, load, device, versions."""
    device = torch.device(device)
    cuda = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": _memory_gib(),
        "load_1min": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "device": str(device) if cuda is None else f"{cuda.name}, {cuda.total_memory / 2**30:.0f} GiB",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        **versions(("attnpatch", "torch", "transformers")),
    }


def machine_line(facts: dict[str, Any]) -> str:
    """`machine()` in one line."""
    where = [f"{facts['cpu']}, {facts['cores']} cores ({facts['cpu_capability']})"]
    if facts["device"] != "cpu":
        where.append(facts["device"])
    threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
    load = "" if facts["load_1min"] is None else f", load {facts['load_1min']}"
    software = ", ".join(f"{name} {facts[name]}" for name in ("torch", "transformers", "attnpatch"))
    return f"{'; '.join(where)}; {threads}{load}; python {facts['python']}, {software}"


def cpu_name() -> str:
    """The processor in words, the machine type where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None
