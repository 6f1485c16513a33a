"""Needle grids: share of needles found by depth and length, one panel a method, with what the mask cannot reach."""

from __future__ import annotations

from typing import Any

from attnpatch.evaluation.cells import OK
from attnpatch.evaluation.reaching import TASKS as REACH_TASKS
from attnpatch.evaluation.ruler.specs import RULER_TASKS

TASKS = (*REACH_TASKS, *(name for name, spec in RULER_TASKS.items() if spec.needles and spec.needles.single))


def grids(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """`{file name: figure}`, one per task of needles at a depth."""
    found = {}
    for task in TASKS:
        own = [cell for cell in cells if cell["status"] == OK and cell["task"]["name"] == task and cell["depth"]]
        if own:
            found[f"grid_{task}.png"] = _grid(task, own)
    return found


def _grid(task: str, cells: list[dict[str, Any]]):
    from matplotlib.figure import Figure

    methods = sorted(dict.fromkeys(map(_method, cells)), key=lambda one: (one[1] is not None, one[1] or 0))
    lengths = sorted({cell["length"] for cell in cells})
    depths = used_depths(cells)
    columns = min(4, len(methods))
    lines = -(-len(methods) // columns)
    size = (1.6 + columns * (1.4 + 0.7 * len(lengths)), lines * (1.2 + 0.36 * len(depths)) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(methods) :]:
        axis.set_visible(False)
    for axis, method in zip(axes.flat, methods, strict=False):
        by_length = [[cell for cell in cells if _method(cell) == method and cell["length"] == n] for n in lengths]
        grid = [[share_at(own, "depth", "correct", depth) for own in by_length] for depth in depths]
        image = axis.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for y, depth in enumerate(depths):
            for x, own in enumerate(by_length):
                _label(axis, x, y, grid[y][x], share_at(own, "reach", "reached", depth))
        axis.set_xticks(range(len(lengths)), [str(n) for n in lengths])
        axis.set_yticks(range(len(depths)), [f"{100 * depth:.3g} %" for depth in depths])
        axis.tick_params(labelsize=8)
        axis.set_title(method[0] if method[1] is None else f"{method[0]} @{method[1]}", fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("depth of the needle", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("tokens", fontsize=8)
    figure.colorbar(image, ax=list(axes.flat), label="share found", fraction=0.05)
    note = "; red: share that the mask can pass on to the question, if not all" if task in REACH_TASKS else ""
    figure.suptitle(f"{task}: needles found by depth and length{note}", fontsize=11)
    return figure


def _label(axis, x: int, y: int, value: float, reach: float) -> None:
    if value == value:  # NaN: no needle at this depth and length
        axis.text(
            x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color="black" if value > 0.6 else "white"
        )
    if reach < 1:
        axis.text(x, y + 0.36, f"{reach:.2f}", ha="center", va="center", fontsize=6, color="#ff5a5a")


def _method(cell: dict[str, Any]) -> tuple[str, int | None]:
    return cell["method"]["label"], cell["budget"]["target"]


def used_depths(cells: list[dict[str, Any]]) -> list[float]:
    """The depths at which some cell asked for a needle."""
    asked = {at for cell in cells for at, n in zip(cell["depth"]["at"], cell["depth"]["total"], strict=True) if n}
    return sorted(asked)


def share_at(cells: list[dict[str, Any]], what: str, part: str, depth: float) -> float:
    """`share` at a depth; NaN where the cells have none there."""
    if not cells or any(cell.get(what) is None or depth not in cell[what]["at"] for cell in cells):
        return float("nan")
    return share(cells, what, part, cells[0][what]["at"].index(depth))


def share(cells: list[dict[str, Any]], what: str, part: str, index: int) -> float:
    """Over all seeds; NaN where nothing was asked."""
    total = sum(cell[what]["total"][index] for cell in cells)
    return sum(cell[what][part][index] for cell in cells) / total if total else float("nan")
