"""Runs small enough for a test: a tiny model of the sandbox's kind on disk, recipes for it, and what a run left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from attnpatch.sandbox.text.model import build_model
from attnpatch.sandbox.text.vocabulary import build_tokenizer
from attnpatch.training.recipe import Recipe
from attnpatch.training.train import Trained, train

from .conftest import recipe

TIMES = ("tokens_per_second",)
FLUX = {"name": "flux", "options": {"sparse": "sliding", "sink": 2, "local": 8}}


def save_model(folder: Path, layers: int = 2) -> Path:
    build_model(layers=layers, hidden=64).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def routed(model: Path | str, output: Path, **changes: Any) -> Recipe:
    """Routers on two tasks; four packs of a few short samples each step."""
    given: dict[str, Any] = {
        "model": str(model),
        "method": FLUX,
        "router": {"pool": 4, "initializer_range": None},
        "lora": None,
        "data": {
            "sources": [
                {"task": "far", "omega": 0.5, "sandbox": ["needle", "copy"], "lengths": [64]},
                {"task": "near", "omega": 1.0, "sandbox": ["local"], "lengths": [48], "prompt": "fraction:0.5"},
            ],
            "max_tokens": 64,
            "pack_tokens": 128,
            "packs_per_step": 2,
        },
        "training": {"output_dir": str(output), "max_steps": 4, "warmup_ratio": 0.0},
    }
    for key, value in changes.items():
        merged = key in ("data", "training", "router") and value is not None
        given[key] = {**given[key], **value} if merged else value
    return recipe(**given)


def run(given: Recipe, **options: Any) -> Trained:
    return train(given, progress=False, evaluate=False, **options)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log, without what is never the same twice."""
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def state_of(folder: Path, step: int) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"step-{step:06d}" / "state.pt", weights_only=True)


def tensors(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by their place in it."""
    if isinstance(state, torch.Tensor):
        return {path: state}
    inner = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {name: one for key, value in inner for name, one in tensors(value, f"{path}/{key}").items()}


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Are two checkpoints equal, bit for bit?"""
    first, second = tensors(one), tensors(two)
    rest = [{key: one[key] for key in ("schedules", "step")}, {key: two[key] for key in ("schedules", "step")}]
    return (first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)) and rest[
        0
    ] == rest[1]
