"""The plan that a router takes most often, as a fixed plan to compare it with: one for all prompts, and one per task.

Both are read off the very documents that they are then scored on, and the second one is told the task: that is in
their favour.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from attnpatch.evaluation.cells import OK
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.results import Results
from attnpatch.evaluation.suites import Suite
from attnpatch.patching.errors import did_you_mean
from attnpatch.patching.report import FULL, SPARSE

OVERALL, PER_TASK = "majority", "majority, told the task"
OWN = ("router", "plan", "prompts", "seed")  # options that a fixed plan stands in for


def majority_plan(routes: Iterable[tuple[int, Mapping[str, int]]]) -> str:
    """One letter per layer, `f` or `s`, from (layer, prompts by the way they took) pairs; a tie is sparse."""
    votes: dict[int, Counter[str]] = {}
    for layer, ways in routes:
        votes.setdefault(layer, Counter()).update(ways)
    return "".join("f" if votes[layer][FULL] > votes[layer][SPARSE] else "s" for layer in sorted(votes))


def majority_suite(results: Results, router: str | None = None) -> dict[str, Any]:
    """The suite that these results came from, with the majority plans of a router beside its methods.

    router: the label of the routing method, where there are several.

    Raises:
        UsageError: no such method, or more than one and none was named.
    """
    cells = _routed(results, router)
    routing = cells[0]["report"]["methods"][0]
    options = {name: value for name, value in routing["config"].items() if name not in OWN}
    by_task: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        by_task.setdefault(cell["task"]["name"], []).append(cell)
    suite = dict(results.run["suite"])
    methods = [one for one in suite["methods"] if one["label"] not in (OVERALL, PER_TASK)]
    overall = {**options, "plan": majority_plan(_routes(cells))}
    per_task = {task: {"plan": majority_plan(_routes(own))} for task, own in by_task.items()}
    methods += [
        {"name": routing["name"], "label": OVERALL, "options": overall},
        {"name": routing["name"], "label": PER_TASK, "options": dict(overall), "per_task": per_task},
    ]
    return {**Suite(**suite).model_dump(mode="json", exclude_defaults=True), "methods": methods}


def _routes(cells: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, int]]]:
    for cell in cells:
        for site in cell["report"]["sites"]:
            yield site["layer"], site["routes"]


def write_suite(suite: dict[str, Any], path: str | Path) -> None:
    """Write a suite as YAML that `attnpatch-eval run --suite` takes."""
    plain = json.loads(json.dumps({key: value for key, value in suite.items() if key != "name"}))  # no shared parts
    text = yaml.safe_dump(plain, sort_keys=False, width=110)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(
        "# Written by `attnpatch-eval majority`: the plans under majority are read off a router's run, on the same\n"
        f"# documents.\n{text}",
        encoding="utf-8",
    )


def _routed(results: Results, label: str | None) -> list[dict[str, Any]]:
    cells = [cell for cell in results.cells if cell["status"] == OK and (cell["method"]["config"] or {}).get("router")]
    found = list(dict.fromkeys(cell["method"]["label"] for cell in cells))
    if label is None and len(found) == 1:
        label = found[0]
    if label not in found:
        hint = did_you_mean(label, found) if label else ""
        raise UsageError(
            f"no method with a router called {label!r} is in these results.{hint} Allowed: {', '.join(found)}."
            if found and label
            else f"these results hold several routers: {', '.join(found)}. Name one with --router."
            if found
            else "these results hold no method with a router, such as flux:router=FOLDER, that is ok."
        )
    return [cell for cell in cells if cell["method"]["label"] == label]
