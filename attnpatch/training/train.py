"""From a recipe to trained parameters on disk: load, train, save, measure."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from attnpatch.training.problems import TrainingError
from attnpatch.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from attnpatch.training.run import Run

# What has to be importable for `training.report_to`.
TRACKERS = {"none": ["torch"], "wandb": ["wandb"], "trackio": ["trackio"], "tensorboard": ["tensorboard"]}
ROUTER_FOLDER, ADAPTER_FOLDER = "router", "adapter"


@dataclass(frozen=True)
class Trained:
    """Where the results of a run lie, how far it came, its last log line, and what was measured at the end."""

    folder: Path
    step: int
    finished: bool
    last: dict[str, Any]
    evaluation: list[dict[str, Any]] | None = None
    main: bool = True  # the process that wrote them


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
    from attnpatch.training.checkpoints import Checkpoints
    from attnpatch.training.mixture import Mixture
    from attnpatch.training.model_card import values_of
    from attnpatch.training.run import Run, require_even_share

    folder, main = Path(recipe.training.output_dir), accelerator.is_main_process
    # What speaks against the run is said before a large model is loaded, and before anything is written.
    require_even_share(recipe, accelerator.num_processes)
    if not restart:
        Checkpoints(folder, None).load(recipe)
    model, tokenizer = load_model(recipe)
    with accelerator.main_process_first():
        mixture = Mixture(recipe, tokenizer)
    run = Run(recipe, model, mixture, folder, accelerator)
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        if restart:
            run.checkpoints.clear()
        (folder / "recipe.yaml").write_text(yaml.safe_dump(values_of(recipe), sort_keys=False))
    accelerator.wait_for_everyone()
    run.resume()
    if recipe.training.report_to != "none":
        accelerator.init_trackers("attnpatch", config=_flat(recipe.model_dump(mode="json")))
    try:
        last = run.train(progress=progress, stop_after=steps)
        accelerator.wait_for_everyone()
    except BaseException:
        if accelerator.num_processes == 1:  # the others may be waiting for this one, which is for the launcher to end
            accelerator.end_training()
        raise
    accelerator.end_training()  # the other processes are done; nobody waits for the measuring
    finished, table = run.step >= recipe.training.max_steps, None
    if finished and main:
        table = _finish(run, tokenizer, progress=progress, evaluate=evaluate, name=name)
    return Trained(folder, run.step, finished, last, table, main)


def load_model(recipe: Recipe) -> tuple[Any, Any]:
    """The recipe's model in eval mode and its tokenizer. Raises LoadingError for a model that cannot be loaded."""
    from attnpatch.evaluation.loading import CheckpointSource, ModelRequest

    source = CheckpointSource(
        ModelRequest(
            recipe.model, revision=recipe.revision, dtype=recipe.dtype, trust_remote_code=recipe.trust_remote_code
        )
    )
    return source.load(), source.tokenizer


def _accelerator(recipe: Recipe) -> Accelerator:
    tracker = recipe.training.report_to
    if not any(find_spec(name) for name in TRACKERS[tracker]):
        raise TrainingError(  # accelerate would go on without a word
            f"training.report_to: {tracker} is not installed: pip install {tracker}. Or leave report_to out: "
            "train_log.jsonl holds everything."
        )
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise TrainingError('training needs accelerate: pip install "attnpatch[train]".') from error
    # An adapter may reach modules that text does not pass through, such as a vision tower.
    unused = DistributedDataParallelKwargs(find_unused_parameters=recipe.lora is not None)
    try:
        return Accelerator(
            mixed_precision="no",  # the run casts by itself: accelerate keeps the first choice of a process for ever
            log_with=None if tracker == "none" else tracker,
            project_dir=recipe.training.output_dir,
            kwargs_handlers=[unused],
            cpu=not torch.cuda.is_available(),
        )
    except ValueError as error:
        raise TrainingError(f"training cannot start: {error}") from error


def _flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Settings under flat names, in types that every tracker takes."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{path}{key}.")
        else:
            flat[path + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat


def _finish(run: Run, tokenizer, *, progress: bool, evaluate: bool, name: str | None) -> list[dict[str, Any]] | None:
    """Save what was trained, take the method out, and measure."""
    from attnpatch.training.measure import measure, write

    recipe, trainee, folder = run.recipe, run.trainee, run.folder
    trainee.finish()
    _save(run, None, name)
    if not evaluate or recipe.evaluation is None:
        return None
    table = measure(run, tokenizer, progress=progress)
    write(table, folder, recipe, name)
    _save(run, table, name)
    return table


def _save(run: Run, table: list[dict[str, Any]] | None, name: str | None) -> None:
    """Write router/ and adapter/, with what was measured in their cards."""
    from attnpatch.patching.saved import save
    from attnpatch.training.model_card import adapter_card, public_name, router_card

    recipe, trainee, folder = run.recipe, run.trainee, run.folder
    if trainee.routers is not None:
        card = router_card(recipe, folder, table, name)
        save(trainee.flux, trainee.base.config, folder / ROUTER_FOLDER, card=card)
    if trainee.adapter is not None:
        for config in trainee.adapter.peft_config.values():
            config.base_model_name_or_path = public_name(recipe.model)  # else the folder it was read from
        # The embeddings are those of the model; to find that out peft would ask the Hub.
        trainee.adapter.save_pretrained(folder / ADAPTER_FOLDER, save_embedding_layers=False)
        (folder / ADAPTER_FOLDER / "README.md").write_text(adapter_card(recipe, folder, table, name))
