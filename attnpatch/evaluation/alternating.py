"""Speed of methods against stock, measured in alternation: one prompt each per round, so that a machine whose load
changes slows all of them alike. The times that cells note in passing lie minutes apart and cannot be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import attnpatch
from attnpatch.evaluation.cells import digest
from attnpatch.evaluation.companions import in_charge
from attnpatch.evaluation.generation import generate_timed, greedy
from attnpatch.evaluation.plan import PlannedCell
from attnpatch.evaluation.scoring import input_device, keeps_logits
from attnpatch.evaluation.speed import synchronise
from attnpatch.evaluation.vision.prompts import on_device

STEPS = 8  # decoded tokens per round
SECONDS = 60.0  # rounds stop here, but not before the second


def contestants(planned: list[PlannedCell]) -> dict[int | None, list[PlannedCell]]:
    """One cell per method and budget, by length (None: with a picture), stock first; none of a length without it."""
    found: dict[int | None, dict[tuple, PlannedCell]] = {}
    for cell in planned:
        if cell.skip is None and cell.documents and (isinstance(cell.length, int) or cell.task.inputs is not None):
            found.setdefault(cell.length, {}).setdefault((cell.method.label, cell.target), cell)
    by_length = {length: list(cells.values()) for length, cells in found.items()}
    return {length: cells for length, cells in by_length.items() if cells[0].method.name == "stock"}


def speed_key(planned: list[PlannedCell], rounds: int) -> str:
    """Hash of what `measure_speed` would measure."""
    cells = [cell for group in contestants(planned).values() for cell in group]
    return digest(
        {
            "rounds": rounds,
            "model": [cell.fields["model"] for cell in cells[:1]],
            "versions": [cell.fields["versions"] for cell in cells[:1]],
            "methods": [
                [cell.method.label, cell.target, cell.length, cell.config, cell.fields["method"].get("contents")]
                + ([cell.fields["method"]["companion"]] if cell.method.companion else [])
                for cell in cells
            ],
        }
    )


def measure_speed(model, planned: list[PlannedCell], rounds: int) -> list[dict[str, Any]]:
    """Tokens/s of prefill and decode per method, budget and length, one prompt at a time.

    `*_of_stock` is the median over rounds of stock's time over the method's. The first round is the warm-up.
    """
    rows = []
    for length, cells in contestants(planned).items():
        once, tokens = _contest(model, cells[0])
        if tokens < 1:
            continue
        times = _times(model, cells, once, rounds)
        for index, cell in enumerate(cells):
            prefill, decode = zip(*times[index], strict=True)
            base_prefill, base_decode = zip(*times[0], strict=True)
            rows.append(
                {
                    "method": cell.method.label,
                    "budget": cell.target,
                    "length": length,
                    "rounds": len(prefill),
                    "prefill_tokens_per_s": tokens / median(prefill),
                    "decode_tokens_per_s": STEPS / median(decode),
                    "prefill_of_stock": median(b / t for b, t in zip(base_prefill, prefill, strict=True)),
                    "decode_of_stock": median(b / t for b, t in zip(base_decode, decode, strict=True)),
                }
            )
    return rows


def _contest(model, cell: PlannedCell) -> tuple[Callable[[], tuple[float, float]], int]:
    """What every method does once per round, and how many tokens it prefills."""
    device = input_device(model)
    if cell.task.inputs is not None:
        inputs = on_device(cell.task.inputs(cell.documents[0]), model, device)
        return lambda: _once_generated(model, inputs), inputs["input_ids"].shape[1]
    ids = torch.tensor([cell.documents[0].input_ids], device=device)
    return lambda: _once(model, ids), ids.shape[1] - STEPS


def _times(
    model, cells: list[PlannedCell], once: Callable[[], tuple[float, float]], rounds: int
) -> list[list[tuple[float, float]]]:
    """(prefill, decode) seconds per cell and round, warm-up left out."""
    times: list[list[tuple[float, float]]] = [[] for _ in cells]
    start = time.perf_counter()
    for number in range(rounds + 1):
        for index, cell in enumerate(cells):
            with attnpatch.apply(model, cell.method.applied, **cell.config), in_charge(cell.method.companion):
                seconds = once()
            if number:
                times[index].append(seconds)
        if number and time.perf_counter() - start > SECONDS:
            break
    return times


@torch.inference_mode()
def _once_generated(model, inputs: dict[str, Any]) -> tuple[float, float]:
    """The same as `generate` does it, pictures encoded and companions at work."""
    with greedy(model, STEPS + 1, set(), 0, at_least=STEPS + 1):
        _, clock = generate_timed(model, inputs)
    return clock.first - clock.start, clock.last - clock.first


@torch.inference_mode()
def _once(model, ids: torch.Tensor) -> tuple[float, float]:
    """Seconds to prefill all but the last tokens, and to decode these one by one."""
    context, device = ids.shape[1] - STEPS, ids.device
    last = {"logits_to_keep": 1} if keeps_logits(model) else {}
    synchronise(device)
    start = time.perf_counter()
    cache = model(input_ids=ids[:, :context], use_cache=True, **last).past_key_values
    synchronise(device)
    middle = time.perf_counter()
    for position in range(context, ids.shape[1]):
        model(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True)
    synchronise(device)
    return middle - start, time.perf_counter() - middle
