"""Runs planned cells on one loaded model: patch in, score, patch out, and proof that the model is stock again."""

from __future__ import annotations

import gc
import time
import traceback
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import torch

import attnpatch
from attnpatch.evaluation import metrics, reaching
from attnpatch.evaluation.alternating import measure_speed, speed_key
from attnpatch.evaluation.budget import dense_mean
from attnpatch.evaluation.cells import ERROR, OK, SKIPPED, CellStore, without_nan
from attnpatch.evaluation.decoding import score_decode
from attnpatch.evaluation.environment import command
from attnpatch.evaluation.errors import SkipCell, UsageError, one_line
from attnpatch.evaluation.plan import PlannedCell
from attnpatch.evaluation.progress import Silent
from attnpatch.evaluation.scoring import Outcome, input_device, keeps_logits, score_prefill
from attnpatch.evaluation.speed import cuda_peak, reset_cuda_peak
from attnpatch.evaluation.task_metrics import metric_of
from attnpatch.patching.errors import UnsupportedModelError

SCORERS = {"prefill": score_prefill, "decode": score_decode}


class Runner:
    """Runs what is not in the store yet.

    Attributes:
        cells: one result per planned cell, in order.
        unpatched: True if the model answered bit for bit the same before and after, None if nothing had to run.
        speed: rows of `measure_speed`, None if not measured.
    """

    def __init__(
        self, planned: list[PlannedCell], source, store: CellStore | None, *, resume: bool, speed_rounds: int = 0
    ):
        self.planned, self.source, self.store, self.resume = planned, source, store, resume
        self.speed_rounds = speed_rounds
        self.speed: list[dict[str, Any]] | None = None
        self.cells: list[dict[str, Any]] = []
        self.unpatched: bool | None = None
        self.reused = 0

    def run(self, progress: Silent) -> list[dict[str, Any]]:
        """All cells, from the store or run now. Ctrl-C leaves the finished ones in the store."""
        known = {cell.key: self._known(cell) for cell in self.planned}
        # Two labels may stand for the same thing: it is run once.
        missing = list({cell.key: cell for cell in reversed(self.planned) if known[cell.key] is None}.values())[::-1]
        runnable = [cell for cell in missing if cell.skip is None]
        self.reused = sum(known[cell.key] is not None for cell in self.planned)
        if self.reused:
            progress.log(
                f"{self.reused} of {len(self.planned)} cells are done already; --overwrite computes them again."
            )
        progress.start(len(missing), sum(len(cell.documents) for cell in runnable))
        model = self._load(progress) if runnable else None
        with _undisturbed(model):
            before = _fingerprint(model, runnable[0]) if runnable else None  # None too if the model cannot run
            fresh: list[dict[str, Any]] = []
            for cell in missing:
                progress.cell(cell.label, _group(cell))
                known[cell.key] = done = self._run_cell(model, cell, progress)
                fresh.append(done)
                progress.done(done["status"], done["reason"])
            self._measure_speed(model, progress)
            if before is not None:
                after = _fingerprint(model, runnable[0])
                self.unpatched = after is not None and torch.equal(before, after)
        if self.unpatched is False:
            self._distrust(fresh)
        self.cells = [_labelled(known[cell.key], cell) for cell in self.planned]
        return self.cells

    def _measure_speed(self, model, progress: Silent) -> None:
        """Time the methods in alternation, or take the times of an earlier run of the same methods."""
        if not self.speed_rounds:
            return
        key = speed_key(self.planned, self.speed_rounds)
        if model is None:
            self.speed = self.store.read_speed(key) if self.store is not None else None
            return
        progress.log("timing the methods in alternation")
        try:
            self.speed = measure_speed(model, self.planned, self.speed_rounds)
        except Exception as error:  # noqa: BLE001 - times are no reason to lose the scores
            progress.log(f"speed was not measured: {one_line(error)}")
            return
        if self.store is not None:
            self.store.write_speed(key, self.speed)

    def _known(self, cell: PlannedCell) -> dict[str, Any] | None:
        return self.store.read(cell.key) if self.store is not None and self.resume else None

    def _load(self, progress: Silent):
        progress.log(f"loading {self.source.identity.id} ({self.source.identity.dtype})")
        model = self.source.load()
        found = attnpatch.patches(model)
        if found:
            raise UsageError(
                f"the model carries patches already ({found[0]!r}); remove them first: stock is the yardstick."
            )
        return model

    def _run_cell(self, model, cell: PlannedCell, progress: Silent) -> dict[str, Any]:
        result = _blank(cell)
        samples: list[dict[str, Any]] = []
        start = time.perf_counter()
        try:
            if cell.skip is not None:
                raise cell.skip
            samples = self._measure(model, cell, progress, result)
            result["status"] = OK
        except (SkipCell, UnsupportedModelError) as reason:
            fix = reason.fix if isinstance(reason, SkipCell) else "choose another method for this model"
            result.update(status=SKIPPED, reason=" ".join(str(reason).split()), fix=fix)
        except Exception as error:  # noqa: BLE001 - one failing cell must not end the run; it is kept in full
            result.update(status=ERROR, reason=one_line(error), fix=_fix(error), traceback=traceback.format_exc())
            error = None
            _free()
        result["seconds"] = round(time.perf_counter() - start, 3)
        result = without_nan(result)
        if self.store is not None:
            self.store.write(result, samples)
        return result

    def _measure(self, model, cell: PlannedCell, progress: Silent, result: dict[str, Any]) -> list[dict[str, Any]]:
        reset_cuda_peak()
        with attnpatch.apply(model, cell.method.name, **cell.config) as patch:
            score = cell.task.scorer or SCORERS[cell.task.mode]
            batch_size = cell.fields["batch_size"]
            outcome: Outcome = score(model, cell.documents, batch_size, progress.advance)
            report = patch.report()
            if cell.task.name in reaching.TASKS:
                reached = reaching.document_reach(model, patch.methods[0], cell.documents, batch_size)
                result["reach"] = metrics.reach_by_depth(outcome.records, reached)
        if not report.calls:
            raise RuntimeError("the patch was never called, so these would be stock numbers; this is a bug, report it")
        result["metrics"] = {
            name: {"value": value, "low": None, "high": None} for name, value in outcome.values.items()
        }
        result["scores"] = outcome.scores if outcome.scores is not None else metrics.scores(cell.task, outcome.records)
        for name, columns in result["scores"].items():
            interval = metric_of(result, name).interval(columns["sums"], columns["weights"])
            result["metrics"][name] = {"value": interval.value, "low": interval.low, "high": interval.high}
        result["documents"] = [one["id"] for one in outcome.records]
        result["depth"] = metrics.by_depth(outcome.records)
        result["positions"] = metrics.by_position(outcome.records)
        result["budget"].update(mean_keys=report.mean_keys, decode_mean_keys=report.decode_mean_keys)
        result["omega"] = report.omega
        result["speed"] = {"prefill": outcome.prefill.to_dict(), "decode": outcome.decode.to_dict()}
        result["peak_memory"] = cuda_peak()
        result["report"] = report.to_dict()
        return outcome.records

    def _distrust(self, fresh: list[dict[str, Any]]) -> None:
        """The model did not come back: what ran in this process cannot be trusted."""
        for cell in fresh:
            if cell["status"] == OK:
                cell.update(
                    status=ERROR,
                    reason="unpatch_failed: after the run the stock model gave other logits than before it",
                    fix="report this as a bug; run the methods one by one to find the one that leaves traces",
                )
                if self.store is not None:
                    self.store.write(cell, [])


def _blank(cell: PlannedCell) -> dict[str, Any]:
    fields = cell.fields
    return {
        "key": cell.key,
        "status": ERROR,
        "reason": None,
        "fix": None,
        "model": fields["model"],
        "method": {
            "name": cell.method.name,
            "label": cell.method.label,
            "config": cell.config,
            **({"contents": named} if (named := fields["method"].get("contents")) else {}),
        },
        "task": {
            **fields["task"],
            "description": cell.task.description if cell.task else None,
            "metric": cell.task.metric if cell.task else None,
            "chance": cell.task.chance if cell.task else None,
        },
        "length": cell.length,
        "seed": cell.seed,
        "data_seed": fields["data_seed"],
        "batch_size": fields["batch_size"],
        "budget": {
            "target": cell.target,
            "mean_keys": None,
            "decode_mean_keys": None,
            "dense_mean_keys": None if cell.length is None else dense_mean(cell.length),
        },
        "omega": None,
        "metrics": {},
        "scores": {},
        "documents": [],
        "depth": None,
        "positions": None,
        "reach": None,
        "speed": {"prefill": None, "decode": None},
        "peak_memory": None,
        "report": None,
        **({"lm_eval": fields["lm_eval"]} if "lm_eval" in fields else {}),
        "versions": fields["versions"],
        "command": command(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _labelled(result: dict[str, Any], cell: PlannedCell) -> dict[str, Any]:
    """The result under the name that its method has in this run; labels are not part of the key."""
    if result["method"]["label"] == cell.method.label:
        return result
    return {**result, "method": {**result["method"], "label": cell.method.label}}


def _group(cell: PlannedCell) -> str:
    return cell.method.label + ("" if cell.target is None else f" @{cell.target}")


@torch.inference_mode()
def _fingerprint(model, cell: PlannedCell) -> torch.Tensor | None:
    """Stock logits at the end of one document; None if the model cannot run it (its cells will say why)."""
    some = {"logits_to_keep": 64} if keeps_logits(model) else {}
    try:
        ids = torch.tensor([cell.documents[0].input_ids], device=input_device(model))
        return model(input_ids=ids, use_cache=False, **some).logits
    except Exception:  # noqa: BLE001 - the same error comes back in the first cell, and is kept there
        _free()
        return None


@contextmanager
def _undisturbed(model):
    """Eval mode and a random state of its own inside; both as before outside."""
    if model is None:
        yield
        return
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        model.train(training)


def _fix(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "lower --batch-size, shorten --lengths, or take --dtype bfloat16"
    return "see the traceback in the cell's file; the next run tries again"


def _free() -> None:
    """Give a failed cell's GPU memory back; tensors on the CPU went with their last reference."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
