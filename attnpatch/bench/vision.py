"""What methods about images cost in generation: prompts with an image, stock against patched, in turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
import transformers

import attnpatch
from attnpatch.bench.machine import machine
from attnpatch.bench.models import VOCABULARY, random_model
from attnpatch.bench.result import Column, Progress, Result, silent
from attnpatch.bench.runs import DTYPES, shape_of
from attnpatch.bench.timing import Clock, alternate, choose_clock, threads
from attnpatch.patching.errors import AttnPatchError, unknown_name
from attnpatch.patching.method import method_class

SLICE = "llava-7b-slice"
IMAGE_TOKEN = 32  # any id below the small vocabulary

# Random weights have no sinks, and a slice has few layers: options under which each method does its work there.
SLICE_OPTIONS: dict[str, dict[str, Any]] = {
    "var": {"dims": (0, 1), "tau": 1.5, "layers": (1, 2), "rho": 0.0, "summ": 0.0},
    "vhr": {},
    "gift": {"saliency_layer": 1, "layers": (2, 3), "content": "all"},
    "paint": {"layers": "1:"},
    "locore": {},
    "pai": {"first_layer": 1},
    "devils": {},
}

COLUMNS = [
    Column("batch", "{batch}"),
    Column("method", "{method}", left=True),
    Column("first token ms", "{first_ms:,.1f}"),
    Column("of stock", "{first_ratio:.2f}x"),
    Column("generation ms", "{generation_ms:,.1f}"),
    Column("of stock", "{generation_ratio:.2f}x"),
]


def bench_vision(
    *,
    model: str = "sandbox:vision",
    methods: Mapping[str, dict[str, Any]] | None = None,
    layers: int = 4,
    tokens: int = 32,
    batches: Sequence[int] = (1,),
    dtype: str = "float32",
    device: str = "cpu",
    threads_used: int | None = 1,
    clock: str = "auto",
    repeats: int = 5,
    progress: Progress = silent,
) -> Result:
    """Time the first token and a whole greedy generation behind prompts with one image each.

    model: "sandbox:vision", or "llava-7b-slice": LLaVA-1.5-7B's shapes (576 image tokens, hidden 4096, 32 heads) with
    `layers` decoder layers, two in the vision tower and random weights. methods: options by name; by default all
    methods about images, on the sandbox with the options of their examples. batches: numbers of prompts that are
    generated for at once. The ratio is the median over turns of patched over stock.

    Raises AttnPatchError or ValueError for arguments out of range.
    """
    if model not in ("sandbox:vision", SLICE):
        raise unknown_name("model", model, ("sandbox:vision", SLICE))
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if not batches:
        raise AttnPatchError("batches is empty; give at least one number of prompts.")
    for name, value in (("layers", layers), ("repeats", repeats), *(("batches", batch) for batch in batches)):
        if value < 1:
            raise AttnPatchError(f"{name} must be at least 1, got {value}.")
    if tokens < 2:
        raise AttnPatchError(f"tokens must be at least 2, got {tokens}.")
    with threads(threads_used) as count:
        timer = choose_clock(clock, device, count)
        if model == SLICE:
            host, prompts = _slice(layers, max(batches), DTYPES[dtype], device)
            chosen = dict(methods) if methods is not None else SLICE_OPTIONS
        else:
            host, prompts = _sandbox(max(batches), DTYPES[dtype], device)
            chosen = dict(methods) if methods is not None else _examples()
        total, done, rows = len(batches) * (1 + len(chosen)) * (repeats + 1), itertools.count(1), []
        for batch in batches:
            inputs = {name: value[:batch] for name, value in prompts.items()}
            found = _measure(host, inputs, chosen, tokens, timer, repeats, lambda: progress(next(done), total, "runs"))
            rows += [{"batch": batch, **row} for row in found]
        facts = machine(device)
    settings = {
        "model": model,
        "shape": shape_of(host),
        "dtype": dtype,
        "prompt_tokens": prompts["input_ids"].shape[1],
        "generated_tokens": tokens,
        "methods": {name: {key: repr(value) for key, value in options.items()} for name, options in chosen.items()},
        "clock": timer.name,
        "repeats": repeats,
    }
    notes = [
        f"{prompts['input_ids'].shape[1]} prompt tokens with one image, {tokens} generated greedily, for `batch` "
        f"prompts at once; {timer}; runs alternate, medians of {repeats}",
        "the first token includes the vision tower and the prompt, and what a method does once per prompt",
    ]
    title = f"What methods about images cost: {model}"
    return Result(f"vision-{model.split(':')[-1]}", title, settings, COLUMNS, rows, facts, notes)


def _examples() -> dict[str, dict[str, Any]]:
    """The options of the examples in `attnpatch show`, which are made for the sandbox's model."""
    return {name: dict(method_class(name).example_options) for name in SLICE_OPTIONS}


def _sandbox(batch: int, dtype: torch.dtype, device: str) -> tuple[Any, dict[str, torch.Tensor]]:
    from attnpatch import sandbox
    from attnpatch.sandbox.vision import DESCRIBE, scenes

    model, processor = sandbox.load("vision", dtype=dtype)
    images = [scene.image for scene in scenes("biased", batch, split="dev")]
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": DESCRIBE[0]}]}]
    prompt = processor.apply_chat_template(said, add_generation_prompt=True)
    inputs = processor(images=images, text=[prompt] * batch, return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    return model.to(device), dict(inputs.to(device))


def _slice(layers: int, batch: int, dtype: torch.dtype, device: str) -> tuple[Any, dict[str, torch.Tensor]]:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=2,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=layers,
            num_attention_heads=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-1,
    )
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(100, VOCABULARY, (batch, 40), generator=generator)
    ids = torch.cat([torch.ones(batch, 1).long(), torch.full((batch, 576), IMAGE_TOKEN), text], 1).to(device)
    pixels = torch.randn(batch, 3, 336, 336, generator=generator).to(device, dtype)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return random_model(config, dtype=dtype, device=device), inputs


def _measure(
    model: Any,
    inputs: dict[str, torch.Tensor],
    methods: Mapping[str, dict[str, Any]],
    tokens: int,
    clock: Clock,
    repeats: int,
    step: Callable[[], None],
) -> list[dict[str, Any]]:
    def generate(count: int) -> float:
        options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
        return clock.time(lambda: model.generate(**inputs, **options))[0]

    def case(name: str | None) -> tuple[float, float]:
        with attnpatch.apply(model, name, **methods[name]) if name is not None else nullcontext():
            return generate(1), generate(tokens)

    cases = {"unpatched": lambda: case(None)} | {name: (lambda name=name: case(name)) for name in methods}
    turns = alternate(cases, repeats, step=step)
    return [_row(name, runs, turns["unpatched"]) for name, runs in turns.items()]


def _row(name: str, runs: list[tuple[float, float]], stock: list[tuple[float, float]]) -> dict[str, Any]:
    first, whole = zip(*runs, strict=True)
    pairs = list(zip(runs, stock, strict=True))
    return {
        "method": name,
        "first_ms": 1e3 * median(first),
        "first_ratio": median(mine[0] / theirs[0] for mine, theirs in pairs),
        "generation_ms": 1e3 * median(whole),
        "generation_ratio": median(mine[1] / theirs[1] for mine, theirs in pairs),
    }
