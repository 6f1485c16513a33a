"""Groups of tasks: one more row for all of a group's tasks together, by the group's own rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from attnpatch.evaluation.cells import OK, digest
from attnpatch.evaluation.task_metrics import metric_of

Cell = dict[str, Any]


def group_cells(cells: Iterable[Cell], groups: Sequence[dict[str, Any]]) -> list[Cell]:
    """One cell per group, method, budget, length and seed where every task of the group is ok.

    groups: dicts with name, members (task names) and metrics: `[metric, filters or None, by_size]`. by_size weights
    tasks by their number of documents, which is the mean over all documents; without it every task counts the same,
    which is the mean of documents weighted by one over the size of their task.
    """
    asked: dict[tuple, dict[str, Cell]] = {}
    for cell in cells:
        if cell["status"] == OK:
            key = (
                cell["method"]["label"],
                cell["budget"]["target"],
                digest(cell["model"]),
                cell["length"],
                cell["seed"],
            )
            asked.setdefault(key, {})[cell["task"]["name"]] = cell
    found = []
    for group in groups:
        for own in asked.values():
            members = [own[name] for name in group["members"] if name in own]
            if members and len(members) == len(group["members"]):
                found += _together(group, members)
    return found


def _together(group: dict[str, Any], members: list[Cell]) -> list[Cell]:
    scores = {}
    for metric, filters, by_size in group["metrics"]:
        metric = "score" if metric.isdigit() else metric  # RULER's metrics are lengths; the cell's length says which
        allowed = None if filters is None else {_column(metric, name) for name in filters}
        for name in members[0]["scores"]:
            wanted = name in allowed if allowed is not None else name.partition(" (")[0] == metric
            if wanted and all(_is_mean(cell, name) for cell in members):
                scores[name] = _pooled([cell["scores"][name] for cell in members], by_size)
    if not scores:
        return []
    first = members[0]
    documents = [f"{cell['task']['name']}/{name}" for cell in members for name in cell["documents"]]
    cell = {
        **first,
        "key": None,
        "task": {
            **first["task"],
            "name": group["name"],
            "description": f"{len(members)} tasks together: {', '.join(group['members'])}",
            "documents": digest([cell["task"]["documents"] for cell in members]),
            "chance": None,
        },
        "budget": {
            **first["budget"],
            **{key: _mean(cell["budget"][key] for cell in members) for key in ("mean_keys", "decode_mean_keys")},
        },
        "omega": _mean(cell.get("omega") for cell in members),
        "documents": documents,
        "scores": scores,
        "speed": {"prefill": None, "decode": None},
    }
    cell["metrics"] = {}
    for name, columns in scores.items():
        interval = metric_of(cell, name).interval(columns["sums"], columns["weights"])
        cell["metrics"][name] = {"value": interval.value, "low": interval.low, "high": interval.high}
    return [cell]


def _column(metric: str, filter_name: str) -> str:
    return metric if filter_name == "none" else f"{metric} ({filter_name})"


def _is_mean(cell: Cell, name: str) -> bool:
    return cell["scores"].get(name, {}).get("kind") == "mean"


def _pooled(columns: list[dict[str, Any]], by_size: bool) -> dict[str, Any]:
    sizes = [sum(weight > 0 for weight in column["weights"]) for column in columns]
    scales = [1.0] * len(columns) if by_size else [sum(sizes) / (len(sizes) * size) for size in sizes]
    return {
        "sums": [value * scale for column, scale in zip(columns, scales, strict=True) for value in column["sums"]],
        "weights": [weight for column in columns for weight in column["weights"]],
        "kind": "mean",
        "lower_is_better": columns[0].get("lower_is_better", False),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None
