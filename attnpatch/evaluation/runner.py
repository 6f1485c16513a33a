"""Runs planned cells on one loaded model: patch in, score, patch out, and proof that the model is stock again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch

import attnpatch
from attnpatch.evaluation.alternating import measure_speed, speed_key
from attnpatch.evaluation.attempts import SCORERS, free
from attnpatch.evaluation.batch_size import BatchSizes
from attnpatch.evaluation.cell_result import labelled
from attnpatch.evaluation.cell_run import Ran, run_cell
from attnpatch.evaluation.cells import ERROR, OK, CellStore, digest
from attnpatch.evaluation.dealing import hands, is_dealt
from attnpatch.evaluation.errors import UsageError, one_line
from attnpatch.evaluation.plan import PlannedCell
from attnpatch.evaluation.processes import ALONE, Processes
from attnpatch.evaluation.progress import Silent
from attnpatch.evaluation.scoring import input_device, keeps_logits
from attnpatch.evaluation.vision.prompts import on_device

__all__ = ["SCORERS", "Runner"]


class Runner:
    """Runs what is not in the store yet.

    With several processes each scores its share of every cell, or a cell of its own where cells cannot be split; the
    main one alone reads and writes the store.

    Attributes:
        cells: one result per planned cell, in order.
        unpatched: True if the model answered bit for bit the same before and after, None if nothing had to run.
        speed: rows of `measure_speed`, None if not measured.
    """

    def __init__(
        self,
        planned: list[PlannedCell],
        source,
        store: CellStore | None,
        *,
        resume: bool,
        speed_rounds: int = 0,
        processes: Processes = ALONE,
    ):
        self.planned, self.source, self.store, self.resume = planned, source, store, resume
        self.speed_rounds, self.processes = speed_rounds, processes
        self.sizes, self.own_sizes = BatchSizes(processes.count), BatchSizes()
        self.speed: list[dict[str, Any]] | None = None
        self.cells: list[dict[str, Any]] = []
        self.unpatched: bool | None = None
        self.reused = 0

    def run(self, progress: Silent) -> list[dict[str, Any]]:
        """All cells, from the store or run now. Ctrl-C leaves the finished ones in the store."""
        processes = self.processes
        if self.store is not None and processes.main:
            self.store.sweep()
        known = {cell.key: self._known(cell) for cell in self.planned}
        # Two labels may stand for the same thing: it is run once.
        missing = list({cell.key: cell for cell in reversed(self.planned) if known[cell.key] is None}.values())[::-1]
        missing = self._agreed(missing)
        runnable = [cell for cell in missing if cell.skip is None]
        self.reused = sum(known[cell.key] is not None for cell in self.planned)
        self._announce(runnable, progress)
        progress.start(len(missing), sum(len(cell.documents) for cell in runnable))
        model = self._load(progress) if runnable else None
        with _undisturbed(model):
            before = _fingerprint(model, runnable[0]) if runnable else None  # None too if the model cannot run
            fresh: list[dict[str, Any]] = []
            for hand in hands(missing, processes.count):
                fresh += self._run_hand(model, hand, known, progress)
            if processes.main:
                self._measure_speed(model, known, progress)
            processes.wait()  # nothing else runs while the methods are timed
            if before is not None:
                after = _fingerprint(model, runnable[0])
                same = after is not None and torch.equal(before, after)
                self.unpatched = all(processes.everyones(same))
        if self.unpatched is False and processes.main:
            self._distrust(fresh)
        self.cells = [labelled(known[cell.key], cell) for cell in self.planned] if processes.main else []
        self.cells, self.speed, self.reused = processes.mains((self.cells, self.speed, self.reused))
        return self.cells

    def _agreed(self, missing: list[PlannedCell]) -> list[PlannedCell]:
        """What the main process is missing. Raises UsageError if the processes did not plan the same cells."""
        plans = self.processes.everyones(digest([cell.key for cell in self.planned]))
        if len(set(plans)) > 1:
            raise UsageError(
                "the processes did not plan the same cells: their versions, GPUs or files differ. Give all machines "
                "the same model and data, or run the cells of each in a run of its own with the same --output-path."
            )
        keys = set(self.processes.mains([cell.key for cell in missing]))
        return [cell for cell in {cell.key: cell for cell in self.planned}.values() if cell.key in keys]

    def _announce(self, runnable: list[PlannedCell], progress: Silent) -> None:
        if self.reused:
            progress.log(
                f"{self.reused} of {len(self.planned)} cells are done already; --overwrite computes them again."
            )
        if self.processes.alone:
            return
        count = self.processes.count
        progress.log(f"{count} processes share the documents of every cell")
        whole = sorted({cell.task_name for cell in runnable if is_dealt(cell, count)})
        if whole:
            progress.log(f"lm-eval's tasks cannot be split, so each process takes whole cells: {', '.join(whole)}")

    def _found(self, cell: PlannedCell, known: dict[str, Any]) -> bool:
        """True if another run on the same folder has finished the cell in the meantime."""
        if self.processes.main:
            known[cell.key] = self._known(cell)
            self.reused += known[cell.key] is not None
        return known[cell.key] is not None

    def _measure_speed(self, model, known: dict[str, Any], progress: Silent) -> None:
        """Time the methods in alternation, or take the times of an earlier run of the same methods."""
        if not self.speed_rounds:
            return
        # A method that fails on this model would take the others' times with it.
        ran = [cell for cell in self.planned if known[cell.key]["status"] == OK]
        key = speed_key(ran, self.speed_rounds)
        if model is None:
            self.speed = self.store.read_speed(key) if self.store is not None else None
            return
        progress.log("timing the methods in alternation")
        try:
            self.speed = measure_speed(model, ran, self.speed_rounds)
        except Exception as error:  # noqa: BLE001 - times are no reason to lose the scores
            progress.log(f"speed was not measured: {one_line(error)}")
            return
        if self.store is not None:
            self.store.write_speed(key, self.speed)

    def _known(self, cell: PlannedCell) -> dict[str, Any] | None:
        return self.store.read(cell.key) if self._reads else None

    @property
    def _reads(self) -> bool:
        """This process takes finished cells from the store."""
        return self.store is not None and self.resume and self.processes.main

    def _load(self, progress: Silent):
        progress.log(f"loading {self.source.identity.id} ({self.source.identity.dtype})")
        model = self.processes.each(self.source.load)
        found = attnpatch.patches(model)
        if found:
            raise UsageError(
                f"the model carries patches already ({found[0]!r}); remove them first: stock is the yardstick."
            )
        return model

    def _run_hand(
        self, model, hand: list[PlannedCell], known: dict[str, Any], progress: Silent
    ) -> list[dict[str, Any]]:
        """Run what is still missing, one cell by all processes or one by each; returns the new results.

        Outside the main process there are none.
        """
        processes, whole = self.processes, is_dealt(hand[0], self.processes.count)
        progress.cell(", ".join(cell.label for cell in hand), hand[0].task_name if whole else _group(hand[0]))
        found = processes.mains([self._found(cell, known) for cell in hand])
        asked = [cell for cell, there in zip(hand, found, strict=True) if not there]
        progress.advance(sum(len(cell.documents) for cell, there in zip(hand, found, strict=True) if there))
        if whole and asked:
            ran = self._run_dealt(model, asked, progress)
        else:
            ran = [run_cell(model, cell, processes, self.sizes, progress) for cell in asked]
        if not processes.main:
            return []
        fresh = [self._keep(*one) for one in ran]
        known.update((cell["key"], cell) for cell in fresh)
        for cell in hand:
            progress.done(known[cell.key]["status"], known[cell.key]["reason"])
        return fresh

    def _run_dealt(self, model, cells: list[PlannedCell], progress: Silent) -> list[Ran]:
        """Each process runs one of the cells as if it were alone; the results of all, in their order."""
        rank, mine = self.processes.rank, None
        if rank < len(cells):
            mine = run_cell(model, cells[rank], ALONE, self.own_sizes, progress)
        ran = self.processes.everyones(mine)[: len(cells)]
        progress.advance(sum(len(cell.documents) for cell in cells[1:]))
        return ran

    def _keep(self, result: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Put a result into the store; what a run beside this one finished stays: it may have had more memory."""
        finished = self.store.read(result["key"]) if self._reads and result["status"] != OK else None
        if finished is not None:
            return finished
        if self.store is not None:
            self.store.write(result, samples)
        return result

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


def _group(cell: PlannedCell) -> str:
    return cell.method.label + ("" if cell.target is None else f" @{cell.target}")


@torch.inference_mode()
def _fingerprint(model, cell: PlannedCell) -> torch.Tensor | None:
    """Stock logits at the end of one document; None if the model cannot run it (its cells will say why)."""
    some = {"logits_to_keep": 64} if keeps_logits(model) else {}
    first, device = cell.documents[0], input_device(model)
    try:
        if cell.task.inputs is not None:
            return model(**on_device(cell.task.inputs(first), model, device), use_cache=False, **some).logits
        ids = torch.tensor([first.input_ids], device=device)
        return model(input_ids=ids, use_cache=False, **some).logits
    except Exception:  # noqa: BLE001 - the same error comes back in the first cell, and is kept there
        free()
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
