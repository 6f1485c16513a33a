"""Results as text: the headline table for a terminal, and the whole summary in markdown."""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.cells import OK
from attnpatch.evaluation.summary import Row

if TYPE_CHECKING:
    from rich.table import Table

    from attnpatch.evaluation.results import Results

SHORT = {"perplexity": "ppl", "long_range_perplexity": "ppl names"}
DETAIL_ONLY = ("candidate_accuracy",)
LEGEND = (
    "Accuracy: share of answer tokens right, mean over documents and seeds; ppl: perplexity. * the paired difference "
    "to stock has a 95 % interval without 0. **bold**: better than every other method at this budget, by paired "
    "intervals without 0. keys: measured mean visible keys per prefill query. Tokens/s: medians over tasks, without "
    "warm-up."
)
SANDBOX = (
    "The sandbox model is tiny and was trained for this package: these numbers exercise mechanisms and do not predict "
    "what a method does to a large model."
)


def headline(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """One table per length: (title, columns, lines). Cells of lines are markdown."""
    tables = []
    for length in sorted({row.length for row in results.rows}):
        rows = [row for row in results.rows if row.length == length and row.metric not in DETAIL_ONLY]
        tasks = list(dict.fromkeys((row.task, row.metric) for row in rows))
        groups = list(dict.fromkeys((row.budget, row.method) for row in rows))
        groups.sort(key=lambda group: (group[0] is not None, group[0] or 0))  # stock first, then by budget
        decoded = any(row.decode_tokens_per_s for row in rows)
        columns = ["method", "keys", *(_task_name(*task) for task in tasks), "prefill tok/s"]
        columns += ["decode tok/s"] if decoded else []
        lines = []
        for budget, method in groups:
            own = {(row.task, row.metric): row for row in rows if (row.budget, row.method) == (budget, method)}
            some = list(own.values())
            line = [method if budget is None else f"{method} @{budget}", _mean_keys(some)]
            line += [_cell(own.get(task)) for task in tasks]
            line += [_rate([row.prefill_tokens_per_s for row in some])]
            line += [_rate([row.decode_tokens_per_s for row in some])] if decoded else []
            lines.append(line)
        tables.append((f"{results.run.get('model', {}).get('id', 'model')}, {length} tokens", columns, lines))
    return tables


def _task_name(task: str, metric: str) -> str:
    return SHORT.get(metric, task.replace("_decode", " (decode)"))


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    text = f"{row.value:.2f}" + ("*" if row.significant else "")
    return f"**{text}**" if row.best else text


def _mean_keys(rows: list[Row]) -> str:
    keys = [row.mean_keys for row in rows if row.mean_keys is not None]
    return f"{median(keys):.1f}" if keys else "-"  # decode tasks prefill less, so not the mean


def _rate(values: list[float | None]) -> str:
    present = [value for value in values if value]
    return f"{median(present):,.0f}" if present else "-"


def markdown_table(columns: list[str], lines: list[list[str]]) -> str:
    """A markdown table; the first column is left-aligned, the others right."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *lines))


def headline_markdown(results: Results) -> str:
    """The headline tables alone, for a pipe."""
    parts = [f"**{title}**\n\n{markdown_table(columns, lines)}" for title, columns, lines in headline(results)]
    return "\n\n".join(parts or ["no cell is ok"]) + "\n"


def rich_tables(results: Results) -> list[Table]:
    """The headline tables for a terminal."""
    from rich.table import Table

    tables = []
    for title, columns, lines in headline(results):
        table = Table(title=title, title_justify="left", pad_edge=False, padding=(0, 1))
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 1)
        budget = None
        for line in lines:
            own = line[0].partition(" @")[2]
            if own != budget and budget is not None:
                table.add_section()
            budget = own
            table.add_row(
                *(
                    f"[bold]{cell.strip('*')}[/bold]{'*' * cell.count('***')}" if cell.startswith("**") else cell
                    for cell in line
                )
            )
        tables.append(table)
    return tables


def summary_markdown(results: Results) -> str:
    """summary.md: how it was made, the headline, every task in detail, what did not run."""
    parts = ["# attnpatch evaluation", _header(results), headline_markdown(results).strip(), LEGEND]
    if str(results.run.get("model", {}).get("id", "")).startswith("sandbox:"):
        parts.append(SANDBOX)
    for length in sorted({row.length for row in results.rows}):
        rows = [row for row in results.rows if row.length == length]
        for task, metric in dict.fromkeys((row.task, row.metric) for row in rows):
            parts += [f"## {task}, {metric.replace('_', ' ')}, {length} tokens", _about(results, task, length)]
            parts.append(_detail([row for row in rows if (row.task, row.metric) == (task, metric)]))
    problems = results.problems()
    if problems:
        parts += ["## What did not run", "\n".join(f"- {line}" for line in problems)]
    parts += ["## Configs", _configs(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(results: Results) -> str:
    run = results.run
    model, versions = run.get("model", {}), run.get("versions", {})
    check = {True: "bit for bit the same before and after", False: "UNPATCH FAILED", None: "nothing had to run"}
    memory = run.get("peak_rss_bytes")
    lines = [
        f"- command: `{run.get('command', '-')}`",
        f"- model: {model.get('id')} ({model.get('dtype')}), fingerprint {str(model.get('fingerprint'))[:16]}",
        f"- seeds {run.get('suite', {}).get('seeds')}, data seed {run.get('suite', {}).get('data_seed')}, "
        f"{results.count(OK)} of {len(results.cells)} cells ok",
        f"- versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"- machine: {run.get('machine', {}).get('cpu')}, {run.get('machine', {}).get('torch_threads')} threads"
        + (f", {', '.join(run['machine']['gpus'])}" if run.get("machine", {}).get("gpus") else ""),
        f"- stock model: {check[run.get('unpatched')]}",
    ]
    if memory:
        lines.append(
            f"- peak memory of the process: {memory / 2**20:,.0f} MiB; wall time {run.get('seconds', 0):.0f} s"
        )
    return "\n".join(lines)


def _about(results: Results, task: str, length: int) -> str:
    cell = next(c for c in results.cells if c["task"]["name"] == task and c["length"] == length and c["status"] == OK)
    chance = cell["task"]["chance"]
    text = f"{cell['task']['description']}; {len(cell['documents'])} documents"
    text += f"; chance {chance:.3g}" if chance else ""
    return text + ("; n small" if len(cell["documents"]) < 30 else "") + "."


def _detail(rows: list[Row]) -> str:
    columns = [
        "method",
        "keys",
        "value",
        "95 % interval",
        "Δ to stock",
        "95 % interval of Δ",
        "McNemar p",
        "sd (seeds)",
    ]
    return markdown_table(columns, [_detail_line(row) for row in rows])


def _detail_line(row: Row) -> list[str]:
    return [
        row.method if row.budget is None else f"{row.method} @{row.budget}",
        "-" if row.mean_keys is None else f"{row.mean_keys:.1f}",
        f"**{row.value:.3f}**" if row.best else f"{row.value:.3f}",
        f"{row.low:.3f} to {row.high:.3f}",
        "-" if row.delta is None else f"{row.delta:+.3f}",
        "-" if row.delta is None else f"{row.delta_low:+.3f} to {row.delta_high:+.3f}",
        "-" if row.p is None else f"{row.p:.2g}",
        "-" if row.sd is None else f"{row.sd:.3f} ({row.seeds})",
    ]


def _configs(results: Results) -> str:
    seen: dict[str, str] = {}
    for row in results.rows:
        name = row.method if row.budget is None else f"{row.method} @{row.budget}"
        seen.setdefault(f"{name}, {row.length} tokens", json.dumps(row.config, sort_keys=True))
    return "\n".join(f"- {name}: `{config}`" for name, config in seen.items())


def status_line(results: Results) -> str:
    """`101 cells ok, 4 skipped, 0 failed` and so on."""
    counts: dict[str, Any] = {status: results.count(status) for status in ("ok", "skipped", "error")}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "ok")
