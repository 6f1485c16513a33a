"""The table of the page: a line per method, budget and length, a column per task and metric."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.cells import OK
from attnpatch.evaluation.headline import DETAIL_ONLY, groups, task_name
from attnpatch.evaluation.page.front import pareto
from attnpatch.evaluation.ruler.specs import RULER_TASKS
from attnpatch.evaluation.sizes import resolve_size
from attnpatch.evaluation.summary import Row, by_length
from attnpatch.evaluation.task_metrics import is_neutral, lower_is_better, metric_of
from attnpatch.evaluation.tasks import DECODE

if TYPE_CHECKING:
    from attnpatch.evaluation.results import Results

Key = tuple[str, int | None, int | None]  # method, budget, length
Column = tuple[str, str]  # task, metric
KEPT = ("value", "low", "high", "delta", "delta_low", "delta_high", "p", "sd", "seeds", "documents", "best")
COSTS = {"keys": True, "prefill": False, "decode": False}  # what a score is drawn against, and if less is better


def line_name(method: str, budget: int | None) -> str:
    """`sliding @64`."""
    return method if budget is None else f"{method} @{budget}"


def line_keys(rows: Iterable[Row]) -> list[Key]:
    """Every method, budget and length, shorter ones first, in the order of the summary."""
    rows = list(rows)
    found = []
    for length in sorted({row.length for row in rows}, key=by_length):
        at_length = groups([row for row in rows if row.length == length])
        found += [(method, budget, length) for budget, method in at_length]
    return found


def column_keys(rows: Iterable[Row]) -> list[Column]:
    """Every task and metric, in order of appearance."""
    return list(dict.fromkeys((row.task, row.metric) for row in rows))


def columns(results: Results) -> list[dict[str, Any]]:
    """What each column shows. `lower`: smaller is better, None where nobody said."""
    first = {}
    for cell in results.scored:
        if cell["status"] == OK:
            first.setdefault(cell["task"]["name"], cell)
    found = []
    for task, metric in column_keys(results.rows):
        cell = first[task]
        detail = metric in DETAIL_ONLY or bool(cell["scores"].get(metric, {}).get("detail"))
        found.append(
            {
                "task": task,
                "metric": metric.replace("_", " "),
                "title": f"{task} {metric.replace('_', ' ')}" if detail else task_name(task, metric),
                "lower": lower_is_better(metric_of(cell, metric)) if _has_direction(cell, metric) else None,
                "chance": cell["task"]["chance"] if metric == "accuracy" else None,
                "about": cell["task"]["description"],
                "detail": detail,
            }
        )
    return found


def _has_direction(cell: dict[str, Any], metric: str) -> bool:
    return metric in cell["scores"] and not is_neutral(cell, metric)


def lines(results: Results) -> list[dict[str, Any]]:
    """One dict per `line_keys`, with a score or None per column, in the order of `columns`."""
    by_line: dict[Key, dict[Column, Row]] = {}
    for row in results.rows:
        by_line.setdefault((row.method, row.budget, row.length), {})[row.task, row.metric] = row
    shown = column_keys(results.rows)
    stock = {cell["method"]["label"] for cell in results.cells if cell["method"]["name"] == "stock"}
    budgets = results.run.get("suite", {}).get("budgets") or []
    found = []
    for key in line_keys(results.rows):
        method, budget, length = key
        own = by_line[key]
        found.append(
            {
                "name": line_name(method, budget),
                "method": method,
                "budget": budget,
                "length": length,
                "stock": method in stock,
                "series": _series(method, budget, length, budgets),
                "keys": _median(row.mean_keys for row in own.values()),
                "decode_keys": _median(row.decode_mean_keys for row in own.values()),
                "omega": _mean(row.omega for row in own.values()),
                **_speed(results.run.get("speed") or [], key, list(own.values())),
                "memory": max((row.peak_memory for row in own.values() if row.peak_memory), default=None),
                "scores": [_score(own.get(column)) for column in shown],
            }
        )
    return found


def add_means(columns: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Put plain means in front: of RULER's tasks, and of all other accuracies, if every line has at least two.

    Tasks that feed the question token by token stay out: their questions see other keys than the budget says.
    """
    ruler = [index for index, column in enumerate(columns) if column["task"] in RULER_TASKS]
    name = "RULER" if len(ruler) == len(RULER_TASKS) else f"mean of {len(ruler)} RULER"
    _add_mean(columns, lines, name, ruler)
    apart = {name, *RULER_TASKS}
    others = [
        index
        for index, column in enumerate(columns)
        if column["metric"] == "accuracy" and column["task"] not in apart and not column["task"].endswith(DECODE)
    ]
    _add_mean(columns, lines, f"mean of {len(others)}", others)


def _add_mean(columns: list[dict[str, Any]], lines: list[dict[str, Any]], title: str, counted: list[int]) -> None:
    if len(counted) < 2 or any(line["scores"][index] is None for line in lines for index in counted):
        return
    names = ", ".join(columns[index]["task"] for index in counted)
    metric = columns[counted[0]]["metric"]
    for line in lines:
        parts = [line["scores"][index] for index in counted]
        line["scores"].insert(0, {"value": fmean(one["value"] for one in parts), "keys": line["keys"]})
    columns.insert(
        0,
        {
            "task": title,
            "metric": "accuracy" if metric == "accuracy" else "score",
            "title": title,
            "lower": False,
            "chance": None,
            "about": f"plain mean over {names}; no interval",
            "detail": False,
            "over": [columns[index]["task"] for index in counted],
        },
    )


def mark_fronts(columns: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Note in each score the costs at which no other line of its length is better: `front: ["keys", ...]`."""
    for index, column in enumerate(columns):
        for length in {line["length"] for line in lines}:
            own = {i: line for i, line in enumerate(lines) if line["length"] == length and line["scores"][index]}
            for cost, less in COSTS.items():
                points = {i: (_cost(line, index, cost), line["scores"][index]["value"]) for i, line in own.items()}
                best = set() if column["lower"] is None else pareto(points, low_x=less, low_y=column["lower"])
                for i in sorted(best):
                    own[i]["scores"][index].setdefault("front", []).append(cost)


def _cost(line: dict[str, Any], index: int, cost: str) -> float | None:
    return line["scores"][index]["keys"] if cost == "keys" else line[cost]


def _score(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    found = {name: getattr(row, name) for name in KEPT} | {"keys": row.mean_keys, "star": row.significant}
    found |= {"small": row.small, "omega": row.omega}
    return {name: value for name, value in found.items() if value is not None and value is not False}


def _series(method: str, budget: int | None, length: int | None, budgets: list[Any]) -> str:
    """The name that a method keeps from length to length: `sliding @length/8` where the budget grows with it."""
    if budget is not None and length is not None:
        for share in budgets:
            if resolve_size(share, length=length) == budget:
                return f"{method} @{share}"
    return line_name(method, budget)


def _speed(measured: list[dict[str, Any]], key: Key, rows: list[Row]) -> dict[str, Any]:
    """Tokens per second: those measured in turns, at lengths that have them; else what the cells noted in passing."""
    at_length = {(one["method"], one["budget"]): one for one in measured if one["length"] == key[2]}
    if at_length:
        own = at_length.get(key[:2], {})
        found = {phase: own.get(f"{phase}_tokens_per_s") for phase in ("prefill", "decode")}
        return found | {f"{phase}_of_stock": own.get(f"{phase}_of_stock") for phase in ("prefill", "decode")}
    return {
        "prefill": _median(row.prefill_tokens_per_s for row in rows),
        "decode": _median(row.decode_tokens_per_s for row in rows),
        "in_passing": True,
    }


def _median(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return median(present) if present else None


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None
