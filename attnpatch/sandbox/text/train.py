"""Training of the sandbox text model: seeded, resumable, one CPU core, less than 40 minutes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from attnpatch.sandbox.text.curriculum import Curriculum, Recipe
from attnpatch.sandbox.text.mixture import train_batch
from attnpatch.sandbox.text.model import build_model
from attnpatch.sandbox.text.objective import loss_and_accuracy, narrowed
from attnpatch.sandbox.text.vocabulary import build_tokenizer
from attnpatch.sandbox.training import BaseRun, Trained, check_positive, run_training, write_model

COMMAND = "attnpatch sandbox train text"


class Run(BaseRun):
    """A run that climbs the ladder of lengths."""

    def __init__(self, recipe: Recipe, seed: int, model=None):
        model = model if model is not None else build_model(seed)
        super().__init__(model, seed, recipe, [p for p in model.model.layers.parameters() if p.ndim == 2])
        self.curriculum = Curriculum()

    def advance(self) -> dict[str, Any]:
        recipe = self.recipe
        length, narrow = self.curriculum.choose(recipe, self.seed, self.step)
        rows = max(1, recipe.tokens_per_step // length)
        batch = train_batch(self.seed, self.step, rows, length, self.curriculum.kinds(recipe, self.step))
        with narrowed(self.model, narrow, min(recipe.narrow_window, length // 8), length):
            loss, accuracy = loss_and_accuracy(self.model, batch, recipe.filler_loss, recipe.bf16)
        self.update(loss)
        climbed = self.curriculum.record(recipe, length, accuracy, clean=not narrow)
        self.step += 1
        self.tokens += rows * length
        return {
            "step": self.step,
            "length": self.curriculum.length,
            "loss": round(loss.item(), 4),
            "accuracy": {kind: round(value, 3) for kind, value in sorted(self.curriculum.accuracy.items())},
            "tokens": self.tokens,
            "climbed": climbed,
        }

    def state(self) -> dict[str, Any]:
        return {"curriculum": self.curriculum.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.curriculum = Curriculum(**state["curriculum"])


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
    """Train the text model into `output_dir`.

    Writes model, tokenizer, train_log.jsonl, training_config.json, checkpoint.pt.

    Args:
        output_dir: made if it is not there. With `resume`, a checkpoint found in it is continued, bit for bit
            as if the run had never stopped (on the same machine and number of threads).
        seed: of the initial weights, the training rows and the order of lengths.
        minutes: stop after that much wall-clock time in this call; what is reached is written and can be
            resumed.
        steps: total optimiser steps of the run (default: the recipe's); the learning rate falls towards it.
        progress: show a progress bar.
        recipe: other settings than the packaged model's; `steps` still wins.
        model: another `Qwen3ForCausalLM` over the sandbox vocabulary to train, for tests.

    Raises:
        ValueError: steps or minutes not positive, or a checkpoint of another seed.
    """
    check_positive(steps=steps, minutes=minutes)
    settings = asdict(recipe or Recipe())
    recipe = Recipe(**{**settings, **({"steps": steps} if steps is not None else {})})
    run = Run(recipe, seed, model)
    return run_training(run, Path(output_dir), export, _describe, minutes=minutes, resume=resume, progress=progress)


def export(run: BaseRun, folder: Path) -> None:
    """Write the averaged weights (bf16), the tokenizer and the settings as a Hugging Face folder."""
    write_model(run, folder, COMMAND, build_tokenizer())


def _describe(entry: dict[str, Any]) -> str:
    needles = entry["accuracy"].get("needles", 0.0)
    return f"length {entry['length']}  loss {entry['loss']:.2f}  needles {needles:.2f}"
