"""What one step of a recipe trains on, as rows for a table and a text to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnpatch.training.mixture import Mixture
from attnpatch.training.samples import Sample

SHOWN = 120  # tokens of a prompt and of an answer that are printed


@dataclass(frozen=True)
class Preview:
    """One step.

    samples: pack, task, id, tokens, prompt, trained, omega of each. mix: samples, tokens and their share per task.
    sources: see `SourceFacts`. first: id, prompt and answer of the first sample, long ones with their middle left out.
    """

    step: int
    samples: list[dict[str, Any]]
    mix: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    first: dict[str, str]


def preview(mixture: Mixture, tokenizer: Any, step: int = 0) -> Preview:
    """The packs of optimiser step `step`."""
    packs = mixture.packs(step)
    rows = [
        {
            "pack": number,
            "task": sample.task,
            "id": sample.id,
            "tokens": len(sample),
            "prompt": sample.prompt_end,
            "trained": sample.trained,
            "omega": mixture.targets[sample.task],
        }
        for number, pack in enumerate(packs)
        for sample in pack.samples
    ]
    return Preview(step, rows, _mix(mixture, rows), mixture.describe(), _text(packs[0].samples[0], tokenizer))


def _mix(mixture: Mixture, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    total = sum(row["tokens"] for row in rows)
    mix = []
    for task, omega in mixture.targets.items():
        tokens = [row["tokens"] for row in rows if row["task"] == task]
        share = round(sum(tokens) / total, 3)
        mix.append({"task": task, "omega": omega, "samples": len(tokens), "tokens": sum(tokens), "share": share})
    return mix


def _text(sample: Sample, tokenizer: Any) -> dict[str, str]:
    prompt, answer = sample.input_ids[: sample.prompt_end], sample.input_ids[sample.prompt_end :]
    return {"id": sample.id, "prompt": _shown(prompt, tokenizer), "answer": _shown(answer, tokenizer)}


def _shown(tokens: tuple[int, ...], tokenizer: Any) -> str:
    if len(tokens) <= SHOWN:
        return tokenizer.decode(tokens)
    half = SHOWN // 2
    left_out = f"[… {len(tokens) - SHOWN:,} tokens …]"
    return f"{tokenizer.decode(tokens[:half])} {left_out} {tokenizer.decode(tokens[-half:])}"
