"""Tables along the document: passkeys found beside what the mask can reach, and perplexity by position."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from attnpatch.evaluation.cells import OK
from attnpatch.evaluation.headline import Cell, Line, ShortTable, keys_text
from attnpatch.evaluation.plots_grid import share_at, used_depths
from attnpatch.evaluation.reaching import TASKS as REACH_TASKS
from attnpatch.evaluation.tasks.by_position import position_bins

REACH_NOTE = (
    "passkey_grid: share of digits found / share of documents whose key the mask can pass on to the question through "
    "all layers. That reach follows from the method's rules alone (window x layers, sinks, random slots); ? where a "
    "method decides by the data. What is out of reach can only be guessed."
)


def grid_tables(cells: list[dict[str, Any]]) -> list[ShortTable]:
    """The tables that the cells have data for."""
    cells = [cell for cell in cells if cell["status"] == OK]
    reach = [cell for cell in cells if cell["task"]["name"] in REACH_TASKS and cell["depth"]]
    position = [cell for cell in cells if cell.get("positions")]
    return [
        *_tables(reach, "found / in reach of the mask, by depth", _depth_columns, _found_and_reach),
        *_tables(position, "perplexity by position", _position_columns, _perplexities),
    ]


def _tables(cells, what: str, columns: Callable, values: Callable) -> list[ShortTable]:
    """One table per task and length."""
    found = []
    for task, length in dict.fromkeys((cell["task"]["name"], cell["length"]) for cell in cells):
        own = [cell for cell in cells if (cell["task"]["name"], cell["length"]) == (task, length)]
        names = columns(own, length)
        titles = ["keys", *names.values()]
        lines = []
        for method, budget in dict.fromkeys((cell["method"]["label"], cell["budget"]["target"]) for cell in own):
            seeds = [cell for cell in own if (cell["method"]["label"], cell["budget"]["target"]) == (method, budget)]
            keys = keys_text([cell["budget"]["mean_keys"] for cell in seeds])
            lines.append(Line(method, budget, [Cell(keys), *(Cell(text) for text in values(seeds, names))]))
        lines.sort(key=lambda line: (line.budget is not None, line.budget or 0))
        found.append(ShortTable(f"{task}, {length} tokens: {what}", titles, lines))
    return found


def _depth_columns(cells: list[dict[str, Any]], length: int) -> dict[float, str]:
    return {depth: f"{100 * depth:.3g} %" for depth in used_depths(cells)}


def _found_and_reach(cells: list[dict[str, Any]], columns: dict[float, str]) -> list[str]:
    parts = (("depth", "correct"), ("reach", "reached"))
    return [" / ".join(_share(share_at(cells, *part, depth)) for part in parts) for depth in columns]


def _share(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.2f}"


def _position_columns(cells: list[dict[str, Any]], length: int) -> dict[int, str]:
    return {i: f"to {stop}" for i, (_, stop) in enumerate(position_bins(length))}


def _perplexities(cells: list[dict[str, Any]], columns: dict[int, str]) -> list[str]:
    values = []
    for i in columns:
        tokens = sum(cell["positions"]["tokens"][i] for cell in cells)
        mean = sum(cell["positions"]["nll"][i] for cell in cells) / tokens
        values.append(f"{math.exp(mean):.2f}" if mean < 20 else f"{math.exp(min(mean, 700)):.3g}")
    return values
