"""Checkpoints of a run: whole or not there, and only for the recipe that made them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from attnpatch.training.problems import TrainingError
from attnpatch.training.recipe import Recipe

STATE_FILE = "state.pt"
# What may change between a run and its resumption without changing what is trained.
# fmt: off
FREE = {
    "training": {
        "output_dir", "report_to", "logging_steps", "save_steps", "save_total_limit",
        "bf16", "gradient_checkpointing",  # how it is computed
    },
    "evaluation": True,
    "data": {"num_proc"},
}
# fmt: on


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides what is trained, as JSON types."""
    return json.loads(recipe.model_dump_json(exclude=FREE))


class Checkpoints:
    """The checkpoints in `folder/checkpoints`, one folder per step."""

    def __init__(self, folder: Path, keep: int | None) -> None:
        self.folder = folder / "checkpoints"
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps with a whole checkpoint, ascending."""
        found = (path.parent.name.removeprefix("step-") for path in self.folder.glob(f"step-*/{STATE_FILE}"))
        return sorted(int(step) for step in found if step.isdigit())  # others were not written to their end

    def save(self, step: int, state: dict[str, Any], recipe: Recipe) -> Path:
        """Write the state after `step` steps; older checkpoints beyond `keep` go."""
        target = self.folder / f"step-{step:06d}"
        part = target.with_suffix(".tmp")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        torch.save({**state, "step": step, "recipe": json.dumps(fingerprint(recipe))}, part / STATE_FILE)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for old in self.steps()[: -self.keep] if self.keep else []:
            shutil.rmtree(self.folder / f"step-{old:06d}")
        return target

    def load(self, recipe: Recipe) -> dict[str, Any] | None:
        """The newest state, or None. Raises TrainingError for a damaged one, and for one of another recipe."""
        if not self.steps():
            return None
        file = self.folder / f"step-{self.steps()[-1]:06d}" / STATE_FILE
        try:
            state = torch.load(file, weights_only=True, map_location="cpu")
            made_by = json.loads(state["recipe"])
        except Exception as error:  # a damaged archive surfaces as one of several types
            raise TrainingError(
                f"checkpoint {file.parent.name} cannot be read: {' '.join(str(error).split())[:120]}. Delete its "
                "folder to go on from the one before, or start anew with --restart."
            ) from error
        changed = _differences(made_by, fingerprint(recipe))
        if changed:
            raise TrainingError(
                f"the run in {self.folder.parent.name!r} was made by another recipe ({'; '.join(changed[:3])}). Take "
                "another training.output_dir, or start anew with --restart."
            )
        return state

    def clear(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return found
    return [] if old == new else [f"{path}: {old!r} there, {new!r} here"]
