"""What training brought: the trained parameters beside full attention and beside the plans that need no training."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnpatch.training.mixture import Mixture
from attnpatch.training.recipe import Recipe
from attnpatch.training.trainee import Trainee

if TYPE_CHECKING:
    from attnpatch.training.run import Run

Row = dict[str, Any]
PROMPTS_FILE = "prompts.jsonl"
PROMPTS_PER_TASK = 4
PATHS = ("prompts", "router")  # options that are files of this machine
RANDOM_SEEDS = (0, 1, 2)


def measure(run: Run, tokenizer, *, progress: bool) -> list[Row]:
    """One row per (what, task, length): score with its interval, share of sparse layers, mean keys.

    The model must be stock again, but for the adapter in it. Plans that rank layers get as many full ones as the
    router takes on average, rounded up.
    """
    recipe, folder = run.recipe, run.folder
    ask = _Asking(recipe, run.trainee, tokenizer, progress)
    if recipe.router is None:
        return _adapter_rows(ask, recipe)
    router = {"router": str(folder / "router")}
    rows = ask.run([("stock", "stock", {}), ("router", "flux", router)])
    omega = _mean_omega(rows, len(run.trainee.routers.layers))
    common, prompts = recipe.method.options, folder / PROMPTS_FILE
    if {"entropy", "calibrate"} & set(recipe.evaluation.baselines):
        _write_prompts(run.mixture, recipe.training.max_steps, prompts)
    for kind in recipe.evaluation.baselines:
        if kind in ("full", "sparse"):
            rows += ask.run([(kind, "flux", {**common, "plan": kind})])
        elif kind == "random":
            plans = [{**common, "plan": f"random:{omega}", "seed": seed} for seed in RANDOM_SEEDS]
            rows += ask.run([(f"random, seed {plan['seed']}", "flux", plan) for plan in plans])
        elif kind in ("entropy", "calibrate"):
            rows += ask.run([(kind, "flux", {**common, "plan": f"{kind}:{omega}", "prompts": str(prompts)})])
        else:
            rows += _majority_rows(ask, common, [row for row in rows if row["what"] == "router"])
    return rows


def _adapter_rows(ask: _Asking, recipe: Recipe) -> list[Row]:
    method = (recipe.method.name, recipe.method.options)
    with ask.without_adapter():
        rows = ask.run([("stock", "stock", {}), ("method", *method)])
    return rows + ask.run([("adapter", "stock", {}), ("method + adapter", *method)])


def _majority_rows(ask: _Asking, common: dict[str, Any], router: list[Row]) -> list[Row]:
    """The plan the router takes most often: one for all prompts, and one per task, which has to be told the task."""
    everything = _majority(router)
    rows = ask.run([("majority", "flux", {**common, "plan": everything})])
    for task in dict.fromkeys(row["task"] for row in router):
        plan = _majority([row for row in router if row["task"] == task])
        rows += ask.run([("majority, told the task", "flux", {**common, "plan": plan})], tasks=[task])
    return rows


def _majority(rows: list[Row]) -> str:
    from attnpatch.evaluation.majority import majority_plan

    return majority_plan((int(layer), routes) for row in rows for layer, routes in row["routes"].items())


def _mean_omega(rows: list[Row], layers: int) -> float:
    """The router's mean share of sparse layers, as the next smaller share that a plan for all prompts can have."""
    found = [row["omega"] for row in rows if row["what"] == "router" and row["omega"] is not None]
    mean = sum(found) / len(found) if found else 0.5
    return math.floor(mean * layers + 1e-6) / layers


def _write_prompts(mixture: Mixture, step: int, file: Path) -> None:
    """Prompts of the training mix from behind the last step, to rank layers on; some of every task."""
    kept: Counter[str] = Counter()
    lines = []
    for later in range(step, step + 50):
        for sample in (sample for pack in mixture.packs(later) for sample in pack.samples):
            if kept[sample.task] < PROMPTS_PER_TASK and sample.prompt_end > 1:
                kept[sample.task] += 1
                lines.append(json.dumps({"input_ids": list(sample.input_ids[: sample.prompt_end])}))
        if all(kept[task] == PROMPTS_PER_TASK for task in mixture.tasks):
            break
    file.write_text("".join(f"{line}\n" for line in lines))


class _Asking:
    """Runs methods on the recipe's evaluation tasks, on the model in memory."""

    def __init__(self, recipe: Recipe, trainee: Trainee, tokenizer, progress: bool) -> None:
        self.settings, self.trainee, self.tokenizer, self.progress = recipe.evaluation, trainee, tokenizer, progress
        self.model = trainee.model if trainee.adapter is None else trainee.adapter.get_base_model()

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        adapter = self.trainee.adapter
        with adapter.disable_adapter() if adapter is not None else nullcontext():
            yield

    def run(self, methods: list[tuple[str, str, dict[str, Any]]], tasks: list[str] | None = None) -> list[Row]:
        from attnpatch.evaluation import evaluate

        given = [{"name": name, "label": label, "options": options} for label, name, options in methods]
        results = evaluate(
            self.model,
            self.tokenizer,
            methods=given,
            tasks=tasks or self.settings.tasks,
            lengths=self.settings.lengths,
            limit=self.settings.limit,
            batch_size=1,
            speed_rounds=0,
            progress=self.progress,
        )
        wanted = {label for label, _, _ in methods}
        return [_row(cell) for cell in results.cells if cell["method"]["label"] in wanted]


def _row(cell: dict[str, Any]) -> Row:
    metric = cell["task"]["metric"]
    value = cell["metrics"].get(metric) or {}
    report = cell["report"] or {}
    return {
        "what": cell["method"]["label"],
        "task": cell["task"]["name"],
        "length": cell["length"],
        "metric": metric,
        "value": value.get("value"),
        "low": value.get("low"),
        "high": value.get("high"),
        "omega": report.get("omega"),
        "mean_keys": cell["budget"]["mean_keys"],
        "status": cell["status"],
        "reason": cell["reason"],
        "routes": {str(site["layer"]): site["routes"] for site in report.get("sites", ()) if site["routes"]},
        "config": {key: value for key, value in (cell["method"]["config"] or {}).items() if key not in PATHS},
    }


def as_table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: one line per (what, length), one column per task, `score (Ω)`."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    header = ["what", "length", *tasks, "mean keys"]
    lines = []
    for what, length in dict.fromkeys((row["what"], row["length"]) for row in rows):
        own = {row["task"]: row for row in rows if (row["what"], row["length"]) == (what, length)}
        keys = [row["mean_keys"] for row in own.values() if row["mean_keys"] is not None]
        mean = f"{sum(keys) / len(keys):,.0f}" if keys else "-"
        lines.append([what, str(length), *(_cell(own.get(task)) for task in tasks), mean])
    return header, lines


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["value"] is None:
        return row["status"]
    omega = "" if row["omega"] is None else f" ({row['omega']:.2f})"
    return f"{row['value']:.3f}{omega}"


def as_markdown(rows: list[Row]) -> str:
    from attnpatch.evaluation.tables import markdown_table

    return markdown_table(*as_table(rows))


def write(rows: list[Row], folder: Path, recipe: Recipe, name: str | None) -> None:
    """evaluation.json for programs and evaluation.md for people."""
    found = {"recipe": name, "settings": recipe.evaluation.model_dump(mode="json"), "rows": rows}
    (folder / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n")
    text = f"# {name or 'Evaluation'}\n\nScore (share of sparse layers) by task.\n\n{as_markdown(rows)}\n"
    (folder / "evaluation.md").write_text(text)
