"""Does the model fit: device, dtype, and an estimate of the memory that weights and cache take at least."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from attnpatch.evaluation.batch_size import AUTO
from attnpatch.evaluation.checking.finding import MISSING, OK, UNKNOWN, Finding
from attnpatch.evaluation.checking.model import Model
from attnpatch.evaluation.environment import device_name
from attnpatch.evaluation.suites import Suite

PART = "machine"
GIB = 2**30


def check_machine(model: Model, suite: Suite) -> list[Finding]:
    """Device, dtype and memory; weights are counted from the config, and the cache of the longest document."""
    if model.source is None:
        return [Finding(PART, "memory", UNKNOWN, "needs the model's config")]
    request, dtype = model.source.request, model.source.dtype
    device = request.device_map or device_name()
    findings = [Finding(PART, "device", OK, f"{device}, {dtype}")]
    if request.device_map and find_spec("accelerate") is None:
        findings = [Finding(PART, "device", MISSING, "--device-map needs accelerate", 'pip install "attnpatch[eval]"')]
    if model.parameters is None:
        return findings
    size = getattr(torch, dtype).itemsize
    weights, cache = model.parameters * size, _cache(model, suite) * size
    needed, free = weights + cache, _free(spread=bool(request.device_map))
    found = f"weights {_gib(weights)}, keys and values {_gib(cache)}, activations on top; {_gib(free)} free"
    if needed <= free:
        return [*findings, Finding(PART, "memory", OK, found)]
    fix = "--dtype bfloat16, --device-map auto, shorter --lengths, a smaller --batch-size, or a larger machine"
    return [*findings, Finding(PART, "memory", MISSING, found, fix)]


def _cache(model: Model, suite: Suite) -> int:
    """Numbers in the cache of a batch of the longest documents that the model takes."""
    config = model.source.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None) or 1
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    longest = max((length for length in suite.lengths if length <= (model.longest or length)), default=0)
    sizes = [1 if size == AUTO else size for size in (suite.batch_size, suite.generation_batch_size)]
    return 2 * len(model.sites) * kv_heads * width * longest * max(sizes)


def _free(spread: bool) -> int:
    """Bytes free: on the first GPU, on all of them together, or in the machine's memory where there is none."""
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count() if spread else 1)
        return sum(torch.cuda.mem_get_info(index)[0] for index in devices)
    if find_spec("psutil") is not None:
        import psutil

        return psutil.virtual_memory().available
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"
