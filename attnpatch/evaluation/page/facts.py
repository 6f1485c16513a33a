"""What one has to know about a run to trust its page: model, versions, machine, command, seeds, proof of removal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.cells import OK
from attnpatch.evaluation.page.lines import Key, line_name
from attnpatch.evaluation.summary import length_text

if TYPE_CHECKING:
    from attnpatch.evaluation.results import Results

UNPATCHED = {
    True: "the stock model gave bit for bit the same logits before and after all methods",
    False: "UNPATCH FAILED: after the run the stock model gave other logits than before; do not trust these cells",
    None: "not checked in this run: every cell was there already",
}


def facts(results: Results) -> list[tuple[str, str]]:
    """Names and values, in reading order; what is unknown is left out."""
    run = results.run
    model, suite, machine = run.get("model", {}), run.get("suite", {}), run.get("machine", {})
    dates = sorted(cell["date"] for cell in results.cells if cell.get("date"))
    memory, seconds = run.get("peak_rss_bytes"), run.get("seconds")
    known = {
        "command": run.get("command"),
        "suite": suite.get("name"),
        "model": model.get("id"),
        "revision": model.get("revision"),
        "fingerprint": (model.get("fingerprint") or "")[:16],
        "dtype": model.get("dtype"),
        "attention": model.get("attn_implementation"),
        "device": model.get("device"),
        "removal": UNPATCHED[run.get("unpatched")],
        "cells": f"{results.count(OK)} of {len(results.cells)} ok"
        + (f", {run['reused_cells']} from an earlier run" if run.get("reused_cells") else ""),
        "seeds": _listed(suite.get("seeds")),
        "data seed": suite.get("data_seed"),
        "documents": f"{suite['limit']} a task" if suite.get("limit") else None,
        "batch size": suite.get("batch_size"),
        "budgets": _listed(suite.get("budgets")),
        "versions": _listed(f"{name} {version}" for name, version in run.get("versions", {}).items()),
        "machine": _listed(filter(None, [machine.get("system"), machine.get("cpu"), *machine.get("gpus", [])])),
        "threads": machine.get("torch_threads"),
        "measured": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else None,
        "wall time": None if seconds is None else f"{seconds:,.0f} s",
        "peak memory": f"{memory / 2**20:,.0f} MiB of the process" if memory else None,
    }
    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]


def configs(results: Results, keys: list[Key]) -> list[dict[str, Any]]:
    """Every line's full options; with the tasks where a line has more than one set of them."""
    found: dict[Key, dict[str, list[str]]] = {key: {} for key in keys}
    for row in results.rows:
        tasks = found[row.method, row.budget, row.length].setdefault(json.dumps(row.config, sort_keys=True), [])
        if row.task not in tasks:
            tasks.append(row.task)
    return [
        {
            "name": f"{line_name(method, budget)}, {length_text(length)}",
            "tasks": tasks if len(asked) > 1 else [],
            "config": config,
        }
        for (method, budget, length), asked in found.items()
        for config, tasks in asked.items()
    ]


def _listed(values: Any) -> str:
    return ", ".join(map(str, values or []))
