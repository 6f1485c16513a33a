"""A cell's result as it is kept: everything known before the cell runs, and the places for what it finds."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from attnpatch.evaluation.budget import dense_mean
from attnpatch.evaluation.cells import ERROR
from attnpatch.evaluation.environment import command
from attnpatch.evaluation.plan import PlannedCell


def blank(cell: PlannedCell) -> dict[str, Any]:
    """The result of a cell that has not been run."""
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
            **{part: fields["method"][part] for part in ("contents", "companion") if part in fields["method"]},
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
        "images": None,
        "strata": None,
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


def labelled(result: dict[str, Any], cell: PlannedCell) -> dict[str, Any]:
    """The result under the name that its method has in this run; labels are not part of the key."""
    if result["method"]["label"] == cell.method.label:
        return result
    return {**result, "method": {**result["method"], "label": cell.method.label}}
