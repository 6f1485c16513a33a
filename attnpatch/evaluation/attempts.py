"""One cell scored by all processes, each its share, joined in the main one; smaller batches if memory runs out."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import attnpatch
from attnpatch.evaluation.batch_size import BatchSizes, ran_out_of_memory
from attnpatch.evaluation.cells import ERROR, SKIPPED
from attnpatch.evaluation.companions import in_charge
from attnpatch.evaluation.decoding import score_decode
from attnpatch.evaluation.errors import SkipCell, one_line
from attnpatch.evaluation.plan import PlannedCell
from attnpatch.evaluation.processes import Processes
from attnpatch.evaluation.progress import Silent
from attnpatch.evaluation.scoring import Outcome, input_device, score_prefill
from attnpatch.evaluation.share import Part, Share, join
from attnpatch.evaluation.speed import cuda_peak, reset_cuda_peak
from attnpatch.patching.errors import AttnPatchError, UnsupportedModelError
from attnpatch.patching.patch import Patch

SCORERS = {"prefill": score_prefill, "decode": score_decode}


@dataclass
class Attempt:
    """A scored cell. failure: fields of its result if it failed; the rest as of the last attempt.

    Outside the main process there is nothing in it.
    """

    failure: dict[str, Any] | None = None
    outcome: Outcome | None = None
    patch: Patch | None = None
    batch_size: int | None = None
    peak_memory: dict[str, int] | None = None


@contextmanager
def attempt(
    model: torch.nn.Module, cell: PlannedCell, processes: Processes, sizes: BatchSizes, progress: Silent
) -> Iterator[Attempt]:
    """Score a cell in all processes; inside, the model is still patched."""
    with ExitStack() as stack:
        patch, failure = None, None
        try:
            patch = stack.enter_context(attnpatch.apply(model, cell.method.applied, **cell.config))
            stack.enter_context(in_charge(cell.method.companion))
        except AttnPatchError as error:  # the method does not take this model, or not without more being said
            failure = failed(
                SkipCell(" ".join(str(error).split()), "do what the reason says, or leave the method out")
            )
        except Exception as error:  # noqa: BLE001 - one failing cell must not end the run; it is kept in full
            failure = failed(error)
        for size in sizes.tries(cell, input_device(model)):
            shown = _Shown(progress, processes.count)
            outcome, part = None, Part(failure)
            if failure is None:
                outcome, part = _part(model, cell, patch, size, processes, shown)
            if part.failure is not None:
                free()
            parts = processes.everyones(part)
            full = any(one.full for one in parts)
            shown.reach(0 if full else len(cell.documents))
            if not full:
                break
        if not processes.main:
            yield Attempt()
            return
        found = next((one.failure for one in parts if one.failure is not None), None)
        if found is None and not processes.alone:
            join(parts, outcome, patch)
        yield Attempt(found, outcome, patch, size, _highest(parts))


def _part(
    model: torch.nn.Module, cell: PlannedCell, patch: Patch, size: int, processes: Processes, advance: Callable
) -> tuple[Outcome | None, Part]:
    """This process's share."""
    reset_cuda_peak()
    patch.reset()
    score = cell.task.scorer or SCORERS[cell.task.mode]
    try:
        if processes.alone:
            outcome = score(model, cell.documents, size, advance)
            return outcome, Part(peak_memory=cuda_peak())
        share = Share(processes.rank, processes.count, patch)
        outcome = score(model, cell.documents, size, advance, share=share)
        part = Part.of(outcome, share, patch)
        part.peak_memory = cuda_peak()
        return outcome, part
    except Exception as error:  # noqa: BLE001 - one failing cell must not end the run; it is kept in full
        return None, Part(failed(error), full=ran_out_of_memory(error))


class _Shown:
    """Documents of all processes on the progress bar, taken to be as fast as this one's."""

    def __init__(self, progress: Silent, processes: int) -> None:
        self.progress, self.processes, self.documents = progress, processes, 0

    def __call__(self, documents: int) -> None:
        self.documents += documents * self.processes
        self.progress.advance(documents * self.processes)

    def reach(self, documents: int) -> None:
        self.progress.advance(documents - self.documents)
        self.documents = documents


def failed(error: Exception) -> dict[str, Any]:
    """What a cell's result says about an error, or about a reason to skip it."""
    if isinstance(error, (SkipCell, UnsupportedModelError)):
        fix = error.fix if isinstance(error, SkipCell) else "choose another method for this model"
        return {"status": SKIPPED, "reason": " ".join(str(error).split()), "fix": fix}
    trace = "".join(traceback.format_exception(error))
    return {"status": ERROR, "reason": one_line(error), "fix": _fix(error), "traceback": trace}


def _fix(error: Exception) -> str:
    if ran_out_of_memory(error):
        return "lower --batch-size or take auto, shorten --lengths, or take --dtype bfloat16"
    return "see the traceback in the cell's file; the next run tries again"


def free() -> None:
    """Give a failed cell's GPU memory back; tensors on the CPU went with their last reference."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _highest(parts: list[Part]) -> dict[str, int] | None:
    """Peak bytes per GPU over all processes."""
    found = [part.peak_memory for part in parts if part.peak_memory]
    names = sorted({name for one in found for name in one})
    return {name: max(one.get(name, 0) for one in found) for name in names} or None
