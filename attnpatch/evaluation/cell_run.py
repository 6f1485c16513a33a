"""One cell run by the processes that share it: its result, whatever happens, and the records of its documents."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

from attnpatch.evaluation import metrics, reaching
from attnpatch.evaluation.attempts import Attempt, attempt, failed
from attnpatch.evaluation.batch_size import BatchSizes
from attnpatch.evaluation.cell_result import blank
from attnpatch.evaluation.cells import OK, without_nan
from attnpatch.evaluation.plan import PlannedCell
from attnpatch.evaluation.processes import Processes
from attnpatch.evaluation.progress import Silent
from attnpatch.evaluation.task_metrics import metric_of

Ran = tuple[dict[str, Any], list[dict[str, Any]]]  # a cell's result and the records of its documents


def run_cell(
    model: torch.nn.Module, cell: PlannedCell, processes: Processes, sizes: BatchSizes, progress: Silent
) -> Ran:
    """The cell's result, with what went wrong if something did, and the records of its documents."""
    result, samples, start = blank(cell), [], time.perf_counter()
    if cell.skip is not None:
        result.update(failed(cell.skip))
    else:
        with attempt(model, cell, processes, sizes, progress) as found:
            if found.failure is None and processes.main:
                try:
                    _describe(model, cell, found, result)
                    samples = found.outcome.records
                except Exception as error:  # noqa: BLE001 - one failing cell must not end the run
                    found.failure = failed(error)
        result.update(found.failure or {})
    result["seconds"] = round(time.perf_counter() - start, 3)
    return without_nan(result), samples


def _describe(model: torch.nn.Module, cell: PlannedCell, found: Attempt, result: dict[str, Any]) -> None:
    outcome, report = found.outcome, found.patch.report()
    if cell.task.name in reaching.TASKS:
        reached = reaching.document_reach(model, found.patch.methods[0], cell.documents, found.batch_size)
        result["reach"] = metrics.reach_by_depth(outcome.records, reached)
    if not report.calls:
        raise RuntimeError("the patch was never called, so these would be stock numbers; this is a bug, report it")
    result["batch_size"] = found.batch_size
    result["metrics"] = {name: {"value": value, "low": None, "high": None} for name, value in outcome.values.items()}
    columns = cell.task.columns or partial(metrics.scores, cell.task)
    result["scores"] = outcome.scores if outcome.scores is not None else columns(outcome.records)
    if cell.task.inputs is not None:
        result["images"] = [one["image"] for one in outcome.records]
        result["strata"] = [one["group"] for one in outcome.records]
    for name, columns in result["scores"].items():
        interval = metric_of(result, name).interval(columns["sums"], columns["weights"])
        result["metrics"][name] = {"value": interval.value, "low": interval.low, "high": interval.high}
    result["documents"] = [one["id"] for one in outcome.records]
    result["depth"] = metrics.by_depth(outcome.records)
    result["positions"] = metrics.by_position(outcome.records)
    result["budget"].update(mean_keys=report.mean_keys, decode_mean_keys=report.decode_mean_keys)
    result["omega"] = report.omega
    result["speed"] = {"prefill": outcome.prefill.to_dict(), "decode": outcome.decode.to_dict()}
    result["peak_memory"] = found.peak_memory
    result["report"] = report.to_dict()
    result["status"] = OK
