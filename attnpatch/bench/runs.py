"""One prefill and the decode steps behind it, of a random model, with or without a method: what model benches time."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

import attnpatch
from attnpatch.bench.memory import peak_memory
from attnpatch.bench.models import default_config, load_config, random_model, shrink
from attnpatch.bench.timing import Clock
from attnpatch.patching.errors import AttnPatchError, unknown_name

LENGTHS = (2048, 4096, 8192, 16384, 32768)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPES |= {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Run:
    """One prefill and the decode steps behind it. Memory in MiB over what was in use before the prefill."""

    prefill: float
    decode: float
    peak: float | None
    mean_keys: float | None
    backend: str | None
    omega: float | None = None


class Bench:
    """A model, a clock, and how many decode steps are timed behind every prefill."""

    def __init__(self, model: PreTrainedModel, clock: Clock, decode_steps: int) -> None:
        self.model, self.clock, self.decode_steps = model, clock, decode_steps
        self.device = model.device
        self.vocabulary = model.config.get_text_config(decoder=True).vocab_size

    def tokens(self, length: int) -> torch.Tensor:
        """The prompt of this length, `[1, length]`; the same for every method."""
        generator = torch.Generator().manual_seed(length)
        return torch.randint(3, self.vocabulary, (1, length), generator=generator).to(self.device)

    @torch.no_grad()
    def run(self, tokens: torch.Tensor, method: attnpatch.Method | None) -> Run:
        """Time one prompt; method None: the model without a patch."""
        with attnpatch.apply(self.model, method) if method is not None else nullcontext() as patch:
            peak, (prefill, output) = peak_memory(lambda: self._forward(tokens), self.device)
            report = patch.report() if patch is not None else None
            cache, last = output.past_key_values, tokens[:, -1:]
            del output
            steps = [self._forward(last, past_key_values=cache)[0] for _ in range(self.decode_steps)]
        if report is None:
            return Run(prefill, median(steps), peak, None, None)
        backends = sorted(report.backends, key=report.backends.get, reverse=True)
        return Run(prefill, median(steps), peak, report.mean_keys, " + ".join(backends), report.omega)

    def _forward(self, tokens: torch.Tensor, **extra: Any) -> tuple[float, Any]:
        return self.clock.time(lambda: self.model(tokens, use_cache=True, logits_to_keep=1, **extra))


def middle(runs: list[Run], name: str) -> float | None:
    """Median of one number over runs, None where it was not measured."""
    values = [value for run in runs if (value := getattr(run, name)) is not None]
    return median(values) if values else None


def check(lengths: tuple[int, ...], dtype: str, repeats: int, decode_steps: int) -> None:
    """Raise AttnPatchError for arguments out of range."""
    if not lengths or any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in lengths):
        raise AttnPatchError(f"lengths must be one or more numbers of tokens >= 2, got {lengths!r}.")
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    for name, value in (("repeats", repeats), ("decode_steps", decode_steps)):
        if value < 1:
            raise AttnPatchError(f"{name} must be at least 1, got {value}.")


def build_model(
    config: str | PreTrainedConfig | None, layers: int | None, positions: int, dtype: str, device: str
) -> PreTrainedModel:
    """A random model of these shapes with room for `positions` tokens."""
    if isinstance(config, str):
        config = load_config(config)
    return random_model(
        shrink(config or default_config(), layers=layers, positions=positions), dtype=DTYPES[dtype], device=device
    )


def shape_of(model: PreTrainedModel) -> dict[str, Any]:
    """What was timed, in numbers."""
    config = model.config.get_text_config(decoder=True)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return {
        "class": type(model).__name__,
        **{name: getattr(config, name, None) for name in (*names, "head_dim", "vocab_size")},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights": "random, seed 0",
        "attention": config._attn_implementation,
    }
