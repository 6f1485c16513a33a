"""Needles by depth: one grid a task, one line a method, budget and length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.cells import OK
from attnpatch.evaluation.page.lines import Key
from attnpatch.evaluation.plots_grid import share_at, used_depths

if TYPE_CHECKING:
    from attnpatch.evaluation.results import Results


def depth_grids(results: Results, keys: list[Key]) -> list[dict[str, Any]]:
    """Per task with needles at several depths: these, and per line the shares found and, if known, within reach.

    keys: the lines of the page; a grid names them by their index.
    """
    with_depth = [cell for cell in results.cells if cell["status"] == OK and cell["depth"]]
    found = []
    for task in dict.fromkeys(cell["task"]["name"] for cell in with_depth):
        own = [cell for cell in with_depth if cell["task"]["name"] == task]
        depths = used_depths(own)
        if len(depths) < 2:
            continue
        lines = []
        for index, (method, budget, length) in enumerate(keys):
            seeds = [
                cell
                for cell in own
                if (cell["method"]["label"], cell["budget"]["target"], cell["length"]) == (method, budget, length)
            ]
            if seeds:
                line = {"line": index, "found": _shares(seeds, "depth", "correct", depths)}
                reach = _shares(seeds, "reach", "reached", depths)
                lines.append(line | ({"reach": reach} if any(one is not None for one in reach) else {}))
        found.append({"task": task, "depths": depths, "lines": lines})
    return found


def _shares(cells: list[dict[str, Any]], what: str, part: str, depths: list[float]) -> list[float | None]:
    values = [share_at(cells, what, part, depth) for depth in depths]
    return [None if math.isnan(value) else round(value, 4) for value in values]
