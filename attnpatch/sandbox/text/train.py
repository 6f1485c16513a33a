"""Training of the sandbox text model: seeded, resumable, one CPU core, less than 40 minutes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attnpatch.sandbox.text.curriculum import Curriculum, Recipe
from attnpatch.sandbox.text.mixture import train_batch
from attnpatch.sandbox.text.model import build_model
from attnpatch.sandbox.text.objective import loss_and_accuracy, narrowed
from attnpatch.sandbox.text.vocabulary import build_tokenizer

LOG_EVERY = 25
SAVE_EVERY = 50
COMMAND = "attnpatch sandbox train text"


@dataclass
class Trained:
    """What `train` returns: where the files are, how far the run came, and the last log line."""

    folder: Path
    step: int
    finished: bool
    last: dict[str, Any]


class Run:
    """The whole state of a training run. Rows and choices follow from (seed, step): no RNG state to keep."""

    def __init__(self, recipe: Recipe, seed: int, model=None):
        self.recipe, self.seed = recipe, seed
        self.model = model if model is not None else build_model(seed)
        self.model.train()
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        inside = {id(p) for p in matrices}
        rest = [p for p in self.model.parameters() if id(p) not in inside]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=0.0),
            torch.optim.AdamW(rest, lr=recipe.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.curriculum = Curriculum()
        self.step, self.seconds, self.tokens = 0, 0.0, 0

    def advance(self) -> dict[str, Any]:
        """One training step; returns its log line."""
        start, recipe = time.perf_counter(), self.recipe
        length, narrow = self.curriculum.choose(recipe, self.seed, self.step)
        rows = max(1, recipe.tokens_per_step // length)
        batch = train_batch(self.seed, self.step, rows, length, self.curriculum.kinds(recipe, self.step))
        with narrowed(self.model, narrow, min(recipe.narrow_window, length // 8), length):
            loss, accuracy = loss_and_accuracy(self.model, batch, recipe.filler_loss, recipe.bf16)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        rate = recipe.rate(self.step)
        for optimizer, lr in zip(self.optimizers, (recipe.muon_lr, recipe.adamw_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.model)
        climbed = self.curriculum.record(recipe, length, accuracy, clean=not narrow)
        self.step += 1
        self.tokens += rows * length
        self.seconds += time.perf_counter() - start
        return {
            "step": self.step,
            "length": self.curriculum.length,
            "loss": round(loss.item(), 4),
            "accuracy": {kind: round(value, 3) for kind, value in sorted(self.curriculum.accuracy.items())},
            "tokens": self.tokens,
            "minutes": round(self.seconds / 60, 2),
            "climbed": climbed,
        }

    def save(self, file: Path) -> None:
        """Write a checkpoint atomically."""
        state = {
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "curriculum": self.curriculum.state(),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        part = file.with_suffix(".tmp")
        torch.save(state, part)
        part.replace(file)

    def restore(self, file: Path) -> None:
        """Continue exactly where `save` left off; raises ValueError if the checkpoint is of another seed."""
        state = torch.load(file, weights_only=True)
        if state["seed"] != self.seed:
            raise ValueError(
                f"{file} was made with seed {state['seed']}, not {self.seed}: pass that seed or resume=False"
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.curriculum = Curriculum(**state["curriculum"])
        self.step, self.seconds, self.tokens = state["step"], state["seconds"], state["tokens"]


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
    for name, value in (("steps", steps), ("minutes", minutes)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    settings = asdict(recipe or Recipe())
    recipe = Recipe(**{**settings, **({"steps": steps} if steps is not None else {})})
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / "train_log.jsonl"
    run = Run(recipe, seed, model)
    lines: list[str] = []
    if resume and checkpoint.exists():
        run.restore(checkpoint)
        lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= run.step]
    log.write_text("".join(line + "\n" for line in lines))
    last: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    started = time.perf_counter()
    with _bar(progress, recipe.steps, run.step) as advance:
        while run.step < recipe.steps and (minutes is None or time.perf_counter() - started < 60 * minutes):
            entry = run.advance()
            if entry["climbed"] or entry["step"] % LOG_EVERY == 0 or entry["step"] == recipe.steps:
                last = entry
                with log.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            if run.step % SAVE_EVERY == 0:
                run.save(checkpoint)
            advance(entry)
    run.save(checkpoint)
    export(run, folder)
    return Trained(folder, run.step, run.step >= recipe.steps, last)


def export(run: Run, folder: Path) -> None:
    """Write the averaged weights (bf16), the tokenizer and the settings as a Hugging Face folder."""
    import transformers

    model = type(run.model)(run.model.config)
    model.load_state_dict(run.average.module.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner only
    build_tokenizer().save_pretrained(folder)
    settings = {
        "command": COMMAND,
        "seed": run.seed,
        "recipe": asdict(run.recipe),
        "step": run.step,
        "tokens": run.tokens,
        "minutes": round(run.seconds / 60, 1),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / "training_config.json").write_text(json.dumps(settings, indent=2) + "\n")


class _bar:
    """A rich progress bar with the length and the accuracies, or nothing."""

    def __init__(self, show: bool, total: int, done: int):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, disable=not show)
        self.total, self.done = total, done

    def __enter__(self):
        self.progress.start()
        task = self.progress.add_task("training", total=self.total, completed=self.done)

        def advance(entry: dict[str, Any]) -> None:
            needles = entry["accuracy"].get("needles", 0.0)
            text = f"length {entry['length']}  loss {entry['loss']:.2f}  needles {needles:.2f}"
            self.progress.update(task, completed=entry["step"], description=text)

        return advance

    def __exit__(self, *exc: object) -> None:
        self.progress.stop()
