"""What training a sandbox model shares: optimisers, a running average, checkpoints, the log, and the loop."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

LOG_EVERY = 25
SAVE_EVERY = 50


@dataclass
class Trained:
    """What `train` returns: where the files are, how far the run came, and the last log line."""

    folder: Path
    step: int
    finished: bool
    last: dict[str, Any]


class BaseRun:
    """The whole state of a training run. Rows and choices follow from (seed, step): no RNG state to keep.

    A model's own run defines `advance` and what else `state` has to hold.

    Args:
        model: to be trained.
        seed: of the rows and of every choice.
        recipe: has `steps`, `muon_lr`, `adamw_lr`, `ema` and `rate(step)`.
        matrices: the weights that Muon updates; AdamW gets all others.
    """

    def __init__(self, model, seed: int, recipe, matrices: list[torch.nn.Parameter]):
        self.recipe, self.seed, self.model = recipe, seed, model
        self.model.train()
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
        inside = {id(p) for p in matrices}
        rest = [p for p in self.model.parameters() if id(p) not in inside]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=0.0),
            torch.optim.AdamW(rest, lr=recipe.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step, self.seconds, self.tokens = 0, 0.0, 0
        self.commit = commit()

    def advance(self) -> dict[str, Any]:
        """One training step; returns its log line."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a subclass adds to a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""

    def update(self, loss: torch.Tensor) -> None:
        """Backward pass, clipping, both optimisers at the rate of this step, and the running average."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        rate = self.recipe.rate(self.step)
        for optimizer, lr in zip(self.optimizers, (self.recipe.muon_lr, self.recipe.adamw_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.model)

    def save(self, file: Path) -> None:
        """Write a checkpoint atomically."""
        state = {
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "commit": self.commit,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            **self.state(),
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
        self.load_state(state)
        self.step, self.seconds, self.tokens = state["step"], state["seconds"], state["tokens"]
        self.commit = state["commit"]  # of the code that began the run


def write_model(run: BaseRun, folder: Path, command: str, reader) -> None:
    """Write a Hugging Face folder: the averaged weights in bf16, what reads its input, and training_config.json.

    Args:
        run: its model, however far it came.
        folder: where to.
        command: what made it, for the settings.
        reader: the tokenizer or processor.
    """
    import transformers

    model = type(run.model)(run.model.config)
    model.load_state_dict(run.average.module.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner only
    reader.save_pretrained(folder)
    settings = {
        "command": command,
        "commit": run.commit,
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


def commit() -> str:
    """The last commit that changed the sandbox, or `unknown` (an installed package, or no git).

    Asking for the folder's own history keeps an installed package from naming the commit of the project around it.
    """
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "log", "-1", "--abbrev=12", "--format=%h", "--", "."], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def check_positive(**values: float | None) -> None:
    """Raises ValueError for a given value that is not positive."""
    for name, value in values.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")


def run_training(
    run: BaseRun,
    folder: Path,
    export: Callable[[BaseRun, Path], None],
    describe: Callable[[dict[str, Any]], str],
    *,
    minutes: float | None,
    resume: bool,
    progress: bool,
) -> Trained:
    """Advance `run` to its last step, or for so many minutes; writes train_log.jsonl and checkpoint.pt, then exports.

    Args:
        run: at its start; with `resume`, a checkpoint in `folder` is continued, bit for bit as if the run had never
            stopped (on the same machine and number of threads).
        folder: made if it is not there.
        export: writes the model into the folder.
        describe: of a log line, the text beside the progress bar.
        minutes: stop after that much wall-clock time in this call.
        resume: go on from a checkpoint.
        progress: show a bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / "train_log.jsonl"
    lines: list[str] = []
    if resume and checkpoint.exists():
        run.restore(checkpoint)
        lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= run.step]
    log.write_text("".join(line + "\n" for line in lines))
    last: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    started, total = time.perf_counter(), run.recipe.steps
    with _bar(progress, total, run.step) as advance:
        while run.step < total and (minutes is None or time.perf_counter() - started < 60 * minutes):
            begin = time.perf_counter()
            entry = run.advance()
            run.seconds += time.perf_counter() - begin
            entry["minutes"] = round(run.seconds / 60, 2)
            if entry.get("climbed") or entry["step"] % LOG_EVERY == 0 or entry["step"] == total:
                last = entry
                with log.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            if run.step % SAVE_EVERY == 0:
                run.save(checkpoint)
            advance(entry["step"], describe(entry))
    run.save(checkpoint)
    export(run, folder)
    return Trained(folder, run.step, run.step >= total, last)


class _bar:
    """A rich progress bar with a line about the run, or nothing."""

    def __init__(self, show: bool, total: int, done: int):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, disable=not show)
        self.total, self.done = total, done

    def __enter__(self):
        self.progress.start()
        task = self.progress.add_task("training", total=self.total, completed=self.done)

        def advance(step: int, text: str) -> None:
            self.progress.update(task, completed=step, description=text)

        return advance

    def __exit__(self, *exc: object) -> None:
        self.progress.stop()
