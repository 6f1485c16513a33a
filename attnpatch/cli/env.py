"""`attnpatch env`: what a bug report should say about the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

import attnpatch
from attnpatch.bench.machine import OPTIONAL, machine, versions
from attnpatch.cli.console import JsonFlag, examples, show, show_json, user_errors
from attnpatch.patching import method_names

EXAMPLES = examples("attnpatch env", "attnpatch env --json")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")


@user_errors
def env(json: JsonFlag = False) -> None:
    """Print versions, processor, threads and GPUs; paste it into bug reports."""
    facts = _facts()
    if json:
        show_json(facts)
        return
    table = Table(title="attnpatch environment", show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for key, value in facts.items():
        table.add_row(key, _text(value))
    show(table)


def _facts() -> dict[str, Any]:
    return {
        "attnpatch": attnpatch.__version__,
        "installed_at": str(Path(attnpatch.__file__).parent),
        "packages": versions(),
        "optional_packages": versions(OPTIONAL),
        "machine": machine(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "methods": method_names(),
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {'absent' if found is None else found}" for key, found in value.items()) or "-"
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)
