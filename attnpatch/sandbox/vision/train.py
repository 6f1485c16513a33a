"""Training of the sandbox vision model: seeded, resumable, less than 45 minutes on two CPU cores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from attnpatch.sandbox.training import BaseRun, Trained, check_positive, run_training, write_model
from attnpatch.sandbox.vision.model import build_model, matrices
from attnpatch.sandbox.vision.objective import answer, name_patches
from attnpatch.sandbox.vision.processor import build_processor
from attnpatch.sandbox.vision.rows import patch_labels, pixel_values, train_batch, train_scenes

COMMAND = "attnpatch sandbox train vision"
KEEP = 0.95  # decay of the running accuracies


@dataclass(frozen=True)
class Recipe:
    """The training recipe; its defaults made the packaged weights."""

    steps: int = 3400
    rows: int = 32
    naming_rows: int = 64
    muon_lr: float = 5e-3
    adamw_lr: float = 3e-3
    warmup: int = 50
    decay: float = 0.35  # share of the steps, at the end, over which the learning rates fall linearly to 2 %
    ema: float = 0.98  # the exported weights are a running average
    named: float = 0.9  # share of patches whose shape the tower must name before the language model starts
    most_naming: int = 1800  # at most so many steps of it
    question_loss: float = 1.0
    late: float = 0.75  # share of the steps after which questions weigh `late_question_loss`
    late_question_loss: float = 2.0
    naming_loss: float = 0.5  # weight of naming the patches while answering

    def rate(self, step: int) -> float:
        """The factor on the learning rates at `step`."""
        start = self.steps * (1 - self.decay)
        fall = 1.0 if step < start else max(0.02, (self.steps - step) / max(1.0, self.steps - start))
        return min(1.0, (step + 1) / self.warmup) * fall


class Run(BaseRun):
    """A run in two phases: the tower learns to name patches, then everything learns to answer."""

    def __init__(self, recipe: Recipe, seed: int, model=None):
        model = model if model is not None else build_model(seed)
        super().__init__(model, seed, recipe, matrices(model))
        self.naming = True
        self.accuracy: dict[str, float] = {}

    def advance(self) -> dict[str, Any]:
        recipe, phase = self.recipe, "naming" if self.naming else "answering"
        if self.naming:
            chosen = train_scenes(self.seed, self.step, recipe.naming_rows)
            features = torch.stack(list(self.model.get_image_features(pixel_values(chosen)).pooler_output))
            loss, accuracy = name_patches(features, self.words, *patch_labels(chosen))
        else:
            late = self.step >= recipe.late * recipe.steps
            batch = train_batch(self.seed, self.step, recipe.rows)
            weight = recipe.late_question_loss if late else recipe.question_loss
            loss, accuracy, features = answer(self.model, batch, weight)
            named = name_patches(features.view(recipe.rows, -1, features.shape[-1]), self.words, *batch.patches)
            loss, accuracy = loss + recipe.naming_loss * named[0], accuracy | named[1]
            self.tokens += batch.input_ids.numel()
        self.update(loss)
        for name, value in accuracy.items():
            self.accuracy[name] = KEEP * self.accuracy.get(name, value) + (1 - KEEP) * value
        self.step += 1
        entry = {
            "step": self.step,
            "phase": phase,
            "loss": round(loss.item(), 4),
            "accuracy": {name: round(value, 3) for name, value in self.accuracy.items()},
            "tokens": self.tokens,
        }
        done = self.accuracy.get("shape", 0.0) >= recipe.named or self.step >= recipe.most_naming
        if self.naming and done:
            self.naming, self.accuracy, entry["climbed"] = False, {}, True
        return entry

    @property
    def words(self) -> torch.Tensor:
        return self.model.get_input_embeddings().weight

    def state(self) -> dict[str, Any]:
        return {"naming": self.naming, "accuracy": self.accuracy}

    def load_state(self, state: dict[str, Any]) -> None:
        self.naming, self.accuracy = state["naming"], state["accuracy"]


def train(
    output_dir: str | Path,
    *,
    seed: int = 0,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = True,
    progress: bool = True,
    recipe: Recipe | None = None,
    model=None,
) -> Trained:
    """Train the vision model into `output_dir`.

    Writes model, processor, train_log.jsonl, training_config.json, checkpoint.pt.

    Args:
        output_dir: made if it is not there. With `resume`, a checkpoint found in it is continued, bit for bit
            as if the run had never stopped (on the same machine and number of threads).
        seed: of the initial weights and of the training scenes.
        minutes: stop after that much wall-clock time in this call; what is reached is written and can be
            resumed.
        steps: total optimiser steps of the run (default: the recipe's); the learning rate falls towards it.
        progress: show a progress bar.
        recipe: other settings than the packaged model's; `steps` still wins.
        model: another `LlavaForConditionalGeneration` over the sandbox vocabulary to train, for tests.

    Raises:
        ValueError: steps or minutes not positive, or a checkpoint of another seed.
    """
    check_positive(steps=steps, minutes=minutes)
    settings = asdict(recipe or Recipe())
    recipe = Recipe(**{**settings, **({"steps": steps} if steps is not None else {})})
    run = Run(recipe, seed, model)
    return run_training(run, Path(output_dir), export, _describe, minutes=minutes, resume=resume, progress=progress)


def export(run: BaseRun, folder: Path) -> None:
    """Write the averaged weights (bf16), the processor and the settings as a Hugging Face folder."""
    write_model(run, folder, COMMAND, build_processor())


def _describe(entry: dict[str, Any]) -> str:
    numbers = "  ".join(f"{name} {value:.2f}" for name, value in entry["accuracy"].items())
    return f"{entry['phase']}  loss {entry['loss']:.2f}  {numbers}"
