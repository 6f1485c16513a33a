"""Where and with what a result was made: versions, machine, command."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import attnpatch
from attnpatch.bench.machine import cpu_name

_CODE = ("kernels", "patching", "methods", "decoding")  # what decides how a patched model computes


@cache
def code_hash() -> str:
    """sha256 over the sources that decide what a cell measures, so that a changed kernel makes old cells stale."""
    package = Path(attnpatch.__file__).parent
    here = Path(__file__).parent
    files = [path for folder in _CODE for path in sorted((package / folder).rglob("*.py"))]
    files += [here / name for name in ("scoring.py", "decoding.py", "generation.py", "metrics.py", "speed.py")]
    files += [path for folder in ("hallucination", "vision") for path in sorted((here / folder).glob("*.*"))]
    whole = hashlib.sha256()
    for path in files:
        whole.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


@cache
def versions() -> dict[str, str]:
    """Versions that enter every cell's key."""
    return {
        "attnpatch": attnpatch.__version__,
        "attnpatch_code": code_hash(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "python": platform.python_version(),
    }


def machine() -> dict[str, Any]:
    """The machine, in words and numbers; no host or user names."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def command() -> str:
    """The command line of this process, as one could paste it."""
    program = [Path(sys.argv[0]).name or "python"]
    if program == ["__main__.py"]:
        program = ["python", "-m", sys.modules["__main__"].__spec__.parent]
    return shlex.join([*program, *sys.argv[1:]])


def device_name() -> str:
    """What a model without a device map runs on."""
    return f"cuda ({torch.cuda.get_device_name(0)})" if torch.cuda.is_available() else "cpu"
