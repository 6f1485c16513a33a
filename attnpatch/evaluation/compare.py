"""Two runs side by side: the same method, budget, task, length and metric, paired by document where possible."""

from __future__ import annotations

from typing import Any

from attnpatch.evaluation.cells import OK
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.results import Results
from attnpatch.evaluation.summary import Row, averaged, paired_delta
from attnpatch.evaluation.tables import markdown_table
from attnpatch.evaluation.task_metrics import metric_of


def compare_markdown(first: Results, second: Results) -> str:
    """A markdown table of every row that both runs have; Δ = second - first.

    Raises:
        UsageError: the runs share no row.
    """
    ours, theirs = ({_key(row): row for row in results.rows} for results in (first, second))
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise UsageError("the two runs share no method, budget, task, length and metric; there is nothing to compare.")
    lines = [_line(ours[key], theirs[key], first, second) for key in shared]
    columns = ["method", "task", "length", "metric", "A", "B", "Δ (B - A)", "95 % interval", "keys A", "keys B"]
    notes = [f"A: {_about(first)}", f"B: {_about(second)}"]
    only = [len(ours) - len(shared), len(theirs) - len(shared)]
    if any(only):
        notes.append(f"rows only in A: {only[0]}, only in B: {only[1]}")
    return "\n\n".join([*notes, markdown_table(columns, lines)])


def _key(row: Row) -> tuple:
    return row.method, row.budget, row.task, row.length, row.metric


def _about(results: Results) -> str:
    model = results.run.get("model", {})
    return f"{model.get('id')} ({model.get('dtype')}), fingerprint {str(model.get('fingerprint'))[:16]}"


def _line(a: Row, b: Row, first: Results, second: Results) -> list[str]:
    group_a, group_b = _cells(first, a), _cells(second, b)
    interval = "documents differ"
    if a.low is None or b.low is None:
        interval = "no scores per document"
    elif group_a[0]["task"]["documents"] == group_b[0]["task"]["documents"]:
        delta = paired_delta(metric_of(group_a[0], a.metric), averaged(group_b, a.metric), averaged(group_a, a.metric))
        interval = f"{delta.low:+.3f} to {delta.high:+.3f}"
    return [
        a.method if a.budget is None else f"{a.method} @{a.budget}",
        a.task,
        "-" if a.length is None else str(a.length),
        a.metric,
        f"{a.value:.3f}",
        f"{b.value:.3f}",
        f"{b.value - a.value:+.3f}",
        interval,
        _keys(a),
        _keys(b),
    ]


def _keys(row: Row) -> str:
    return "-" if row.mean_keys is None else f"{row.mean_keys:.1f}"


def _cells(results: Results, row: Row) -> list[dict[str, Any]]:
    return [
        cell
        for cell in results.scored
        if cell["status"] == OK
        and (cell["method"]["label"], cell["budget"]["target"]) == (row.method, row.budget)
        and (cell["task"]["name"], cell["length"]) == (row.task, row.length)
    ]
