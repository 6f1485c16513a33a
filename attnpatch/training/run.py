"""One training run: steps, checkpoints and logs, on one process or several (`accelerate launch`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from transformers import get_scheduler

from attnpatch.training.checkpoints import Checkpoints
from attnpatch.training.gates import temperature
from attnpatch.training.log import Log, describe, means_by_task, progress_bar, scalars
from attnpatch.training.mixture import Mixture
from attnpatch.training.problems import TrainingError
from attnpatch.training.recipe import Recipe
from attnpatch.training.samples import Pack
from attnpatch.training.trainee import Share, Trainee, check_head, shares_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def require_even_share(recipe: Recipe, processes: int) -> None:
    """Raise TrainingError unless every process gets as many packs of a step: else some would wait for ever."""
    packs = recipe.data.packs_per_step
    if packs % processes:
        raise TrainingError(
            f"data.packs_per_step={packs} cannot be dealt out evenly to {processes} processes. Take a multiple of "
            f"{processes}, or other --num_processes."
        )


class Run:
    """The state of a run. Packs and noise follow from the step, so parameters and optimisers are all there is to keep.

    Each step takes `data.packs_per_step` packs, dealt out over the processes; results do not depend on their number.
    """

    def __init__(self, recipe: Recipe, model, mixture: Mixture, folder: Path, accelerator: Accelerator) -> None:
        self.recipe, self.mixture, self.folder, self.accelerator = recipe, mixture, folder, accelerator
        self.trainee = Trainee(model, recipe)
        self.trainee.to(accelerator.device)
        check_head(self.trainee)
        self.optimizers, self.schedules = self._optimizers()
        self.wrapped = accelerator.prepare_model(self.trainee)
        self.checkpoints = Checkpoints(folder, recipe.training.save_total_limit)
        self.step, self.saved = 0, 0
        self._whole = True  # no step is half applied

    def _optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        settings, router = self.recipe.training, self.recipe.router
        betas = (settings.adam_beta1, settings.adam_beta2)
        optimizers = [torch.optim.AdamW(list(self.trainee.parameter_groups()), betas=betas)]
        if self.trainee.multipliers is not None:
            optimizers.append(
                torch.optim.AdamW(
                    self.trainee.multipliers.parameters(), lr=router.multiplier_learning_rate, betas=betas,
                    weight_decay=router.weight_decay, maximize=True,
                )
            )  # fmt: skip
        warmup = math.ceil(settings.warmup_ratio * settings.max_steps)
        schedules = [
            get_scheduler(
                settings.lr_scheduler_type, one, num_warmup_steps=warmup, num_training_steps=settings.max_steps
            )
            for one in optimizers
        ]
        return optimizers, schedules

    # where it stands

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        state = self.checkpoints.load(self.recipe)
        if state is None:
            return
        self.trainee.restore(state["trained"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.step = self.saved = state["step"]

    def save(self) -> None:
        """Write a checkpoint, from the main process, unless this step has one or nothing was trained yet."""
        if self.accelerator.is_main_process and self.saved != self.step:
            state = {
                "trained": self.trainee.trained_state(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "schedules": [schedule.state_dict() for schedule in self.schedules],
            }
            self.checkpoints.save(self.step, state, self.recipe)
        self.saved = self.step

    # steps

    def train(self, *, progress: bool = True, stop_after: int | None = None) -> dict[str, Any]:
        """Run to the end, or for `stop_after` steps; returns the last log line.

        Raises:
            TrainingError: loss or gradient are not finite. The state before that step is kept as a checkpoint.
        """
        settings, main = self.recipe.training, self.accelerator.is_main_process
        log = Log(self.folder, self.step) if main else None
        last = settings.max_steps if stop_after is None else min(settings.max_steps, self.step + stop_after)
        entry: dict[str, Any] = {}
        try:
            with progress_bar(progress and main, settings.max_steps, self.step) as advance:
                while self.step < last:
                    entry = self._advance()
                    if main and (self.step % settings.logging_steps == 0 or self.step == settings.max_steps):
                        log.write(entry)
                        self.accelerator.log(scalars(entry), step=entry["step"])
                    if self.step % settings.save_steps == 0:
                        self.save()
                    advance(entry)
        finally:  # also when it is interrupted: what is done is kept
            if self._whole:
                self.save()
        return entry

    def _advance(self) -> dict[str, Any]:
        start, recipe, accelerator = time.perf_counter(), self.recipe, self.accelerator
        packs = self.mixture.packs(self.step)
        # Routers learn from their targets too, so a step of samples without answers is no mistake for them.
        shares = shares_of(packs, self.step, may_be_empty=self.trainee.routers is not None)
        rank, world = accelerator.process_index, accelerator.num_processes
        mine = list(zip(packs, shares, strict=True))[rank::world]
        found = [self._backward(pack, share, final=pack is mine[-1][0]) for pack, share in mine]
        everyone = sorted(_gathered(found), key=lambda one: one["first"])
        self._require_finite_loss(everyone)
        parameters = [p for group in self.optimizers[0].param_groups for p in group["params"]]
        norm = float(accelerator.clip_grad_norm_(parameters, recipe.training.max_grad_norm))
        if not math.isfinite(norm):
            self._refuse(f"the gradient of step {self.step + 1} is not finite ({norm})")
        self._whole = False
        rate = self.schedules[0].get_last_lr()[0]
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._whole = True
        return self._entry(everyone, shares[0], norm, rate, time.perf_counter() - start)

    def _backward(self, pack: Pack, share: Share, *, final: bool) -> dict[str, Any]:
        accelerator = self.accelerator
        synced: Callable = nullcontext if final else accelerator.no_sync
        with synced(self.wrapped):
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=self.recipe.training.bf16):
                loss, found = self.wrapped(pack, share)
            # Processes average their gradients; the step's loss is a sum.
            accelerator.backward(loss * accelerator.num_processes)
        return {**found, "loss": float(loss.detach()), "first": share.first}

    def _require_finite_loss(self, found: list[dict[str, Any]]) -> None:
        wrong = [one for one in found if not math.isfinite(one["loss"])]
        if wrong:
            samples = [sample for one in wrong for sample in one["wrong"]]
            self._refuse(
                f"the loss of step {self.step + 1} is not finite ({wrong[0]['loss']}), because of {describe(samples)}"
            )

    def _refuse(self, what: str) -> NoReturn:
        """Give the step up. Every process comes here, as all of them know the same losses and gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        kept = f"checkpoint step-{self.step:06d} holds the state before it" if self.step else "there was none before"
        raise TrainingError(
            f"{what}. Nothing of that step was applied; {kept}. `attnpatch data preview RECIPE --step {self.step}` "
            "shows its samples. After mending the data, or with --set training.bf16=false, the same command goes on; "
            "a lower learning rate needs --restart."
        )

    def _entry(self, found, share: Share, norm: float, rate: float, seconds: float) -> dict[str, Any]:
        tokens = sum(one["tokens"] for one in found)
        entry = {
            "step": self.step,
            "loss": round(sum(one["loss"] for one in found), 6),
            "nll": round(sum(one["nll"] for one in found) / share.weight, 6),
            "learning_rate": rate,
            "grad_norm": round(norm, 5),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1),
        }
        if self.trainee.multipliers is not None:
            settings = self.recipe.router
            entry |= {
                "regular": round(sum(one["regular"] for one in found), 6),
                "omega": means_by_task(found, "omega"),
                "omega_sampled": means_by_task(found, "sampled"),
                "multipliers": self.trainee.multipliers.values(),
                "temperature": round(temperature(settings, self.step - 1, self.recipe.training.max_steps), 4),
            }
        return entry


def _gathered(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What all processes found; here and not above, because accelerate comes with an extra."""
    from accelerate.utils import gather_object

    return gather_object(found)
