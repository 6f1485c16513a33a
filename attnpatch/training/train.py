"""From a recipe to trained parameters on disk: load, train, save, measure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from attnpatch.training.problems import TrainingError
from attnpatch.training.recipe import Recipe

ROUTER_FOLDER, ADAPTER_FOLDER = "router", "adapter"


@dataclass(frozen=True)
class Trained:
    """Where the results of a run lie, how far it came, its last log line, and what was measured at the end."""

    folder: Path
    step: int
    finished: bool
    last: dict[str, Any]
    evaluation: list[dict[str, Any]] | None = None


def train(
    recipe: Recipe,
    *,
    restart: bool = False,
    progress: bool = True,
    steps: int | None = None,
    evaluate: bool = True,
    name: str | None = None,
) -> Trained:
    """Train what a recipe says into `recipe.training.output_dir`, and measure it beside its baselines.

    Writes recipe.yaml, train_log.jsonl and checkpoints/; at the end router/ (for `attnpatch.load`), adapter/ (a peft
    adapter) and evaluation.json/.md. A run that was stopped goes on from its newest checkpoint, exactly.

    Args:
        restart: forget the checkpoints of an earlier run in that folder.
        progress: bars on a terminal.
        steps: stop after that many steps of this call; the next call goes on.
        evaluate: measure at the end what `recipe.evaluation` names.
        name: how the recipe is called in cards and logs.

    Raises:
        TrainingError, DataError, AttnPatchError: what keeps the run from going on; what was done is kept.
    """
    accelerator = _accelerator(recipe)
    folder = Path(recipe.training.output_dir)
    from attnpatch.training.run import Run

    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        if restart:
            from attnpatch.training.checkpoints import Checkpoints

            Checkpoints(folder, None).clear()
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    accelerator.wait_for_everyone()
    model, tokenizer = load_model(recipe)
    with accelerator.main_process_first():
        from attnpatch.training.mixture import Mixture

        mixture = Mixture(recipe, tokenizer)
    run = Run(recipe, model, mixture, folder, accelerator)
    run.resume()
    if recipe.training.report_to != "none":
        accelerator.init_trackers("attnpatch", config=json.loads(recipe.model_dump_json()))
    main = accelerator.is_main_process
    try:
        last = run.train(progress=progress, stop_after=steps)
        accelerator.wait_for_everyone()
    finally:
        accelerator.end_training()  # the other processes are done; nobody waits for the measuring
    finished, table = run.step >= recipe.training.max_steps, None
    if finished and main:
        table = _finish(run, tokenizer, progress=progress, evaluate=evaluate, name=name)
    return Trained(folder, run.step, finished, last, table)


def load_model(recipe: Recipe) -> tuple[Any, Any]:
    """The recipe's model in eval mode and its tokenizer. Raises LoadingError for a model that cannot be loaded."""
    from attnpatch.evaluation.loading import CheckpointSource, ModelRequest

    source = CheckpointSource(
        ModelRequest(
            recipe.model, revision=recipe.revision, dtype=recipe.dtype, trust_remote_code=recipe.trust_remote_code
        )
    )
    return source.load(), source.tokenizer


def _accelerator(recipe: Recipe):
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise TrainingError('training needs accelerate: pip install "attnpatch[train]".') from error
    # A step may hold no sample of some task, whose multipliers then get no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    tracker = None if recipe.training.report_to == "none" else recipe.training.report_to
    try:
        return Accelerator(
            mixed_precision="bf16" if recipe.training.bf16 else "no",
            log_with=tracker,
            project_dir=recipe.training.output_dir,
            kwargs_handlers=[unused],
            cpu=not torch.cuda.is_available(),
        )
    except (ImportError, ValueError) as error:
        raise TrainingError(f"training cannot start: {error}. Is {tracker or 'accelerate'} installed?") from error


def _finish(run, tokenizer, *, progress: bool, evaluate: bool, name: str | None) -> list[dict[str, Any]] | None:
    """Save what was trained, take the method out, and measure."""
    from attnpatch.training.measure import measure, write
    from attnpatch.training.model_card import adapter_card, router_card

    recipe, trainee, folder = run.recipe, run.trainee, run.folder
    trainee.eval()
    trainee.patch.remove()
    if trainee.adapter is not None:
        trainee.adapter.save_pretrained(folder / ADAPTER_FOLDER)
    if trainee.routers is not None:
        from attnpatch.patching.saved import save

        save(trainee.flux, trainee.base.config, folder / ROUTER_FOLDER)
    table = None
    if evaluate and recipe.evaluation is not None:
        table = measure(recipe, trainee, tokenizer, folder, progress=progress)
        write(table, folder, recipe, name)
    if trainee.routers is not None:
        (folder / ROUTER_FOLDER / "README.md").write_text(router_card(recipe, folder, table, name))
    if trainee.adapter is not None:
        (folder / ADAPTER_FOLDER / "README.md").write_text(adapter_card(recipe, folder, table, name))
    return table
