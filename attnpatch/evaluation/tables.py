"""Results as text: the headline table for a terminal, and the whole summary in markdown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.beside import beside_tables, sources
from attnpatch.evaluation.cells import OK
from attnpatch.evaluation.grids import REACH_NOTE, grid_tables
from attnpatch.evaluation.headline import Cell, ShortTable, delta_tables, delta_texts, short_tables
from attnpatch.evaluation.ruler import report as ruler
from attnpatch.evaluation.summary import Row, by_length, length_text
from attnpatch.evaluation.vision.notes import picture_notes

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from attnpatch.evaluation.results import Results

LEGEND = (
    "Scores: share of answer tokens right, mean over documents and seeds; ppl: perplexity, over all tokens and over "
    "names that only an earlier mention tells. keys: measured mean visible keys per prefill query. * differs from "
    "stock: the 95 % interval of the paired difference excludes 0. Bold: better than every other method at this "
    "budget by such intervals. (decode): the method prefills the context, then the question follows token by token "
    "and sees the decode keys. Tokens/s: one prompt, medians "
    "of rounds in which the methods take turns; of stock: stock's time over the method's."
)
OMEGA = (
    "Ω: share of (prompt, layer) pairs that went to the sparse arm. A method that reads the prompt before it decides "
    "reads the tokens before the first answer alone, in tasks (context) the first half of the document."
)
SANDBOX = (
    "The sandbox model is tiny and was trained for this package: these numbers exercise mechanisms and do not predict "
    "what a method does to a large model."
)


def notes(results: Results) -> list[str]:
    """What one has to know to read the tables."""
    sandbox = str(results.run.get("model", {}).get("id", "")).startswith("sandbox:")
    tasks = {row.task for row in results.rows}
    return [
        LEGEND,
        *([OMEGA] if any(row.omega is not None for row in results.rows) else []),
        *([REACH_NOTE] if "passkey_grid" in tasks else []),
        *(ruler.NOTES if ruler.ruler_rows(results.rows) else []),
        *picture_notes(results.cells),
        *sources(results.beside),
        *([SANDBOX] if sandbox else []),
    ]


def all_short_tables(results: Results) -> list[ShortTable]:
    """Scores and cost, RULER's tables, those along the document, and what others reported."""
    model = str(results.run.get("model", {}).get("id", "model"))
    ours = [*short_tables(results), *ruler.ruler_tables(results.rows, model), *grid_tables(results.cells)]
    return [*ours, *beside_tables(results.beside)]


def printed_tables(results: Results) -> list[ShortTable]:
    """What a run prints: the short tables, and the differences to stock, which summary.md tells task by task."""
    return [*all_short_tables(results), *delta_tables(results)]


def markdown_table(columns: list[str], lines: list[list[str]]) -> str:
    """A markdown table; the first column is left-aligned, the others right."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *lines))


def headline_markdown(results: Results) -> str:
    """The printed tables alone, for a pipe."""
    return _tables_markdown(printed_tables(results))


def _tables_markdown(tables: list[ShortTable]) -> str:
    parts = []
    for table in tables:
        lines = [[line.name, *(_markdown_cell(cell) for cell in line.cells)] for line in table.lines]
        parts.append(f"**{table.title}**\n\n{markdown_table(['method', *table.columns], lines)}")
    return "\n\n".join(parts or ["no cell is ok"]) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return text + "\\*" if cell.differs else text


def rich_tables(results: Results, width: int = 120) -> list[RichTable]:
    """The printed tables for a terminal of `width` columns; one that is too wide goes on in another, and entries that
    are too wide even so go on in the next line.
    """
    return [_rich(part, part.room > width) for table in printed_tables(results) for part in table.split(width)]


def _rich(table: ShortTable, folded: bool) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    shown.add_column("method", min_width=None if folded else table.label_width, overflow="fold")
    for index, column in enumerate(table.columns):
        least = None if folded else table.width(index)
        shown.add_column(column.replace(" ", "\n"), justify="right", min_width=least, overflow="fold")
    for index, line in enumerate(table.lines):
        last = index + 1 == len(table.lines) or table.lines[index + 1].budget != line.budget
        cells = [
            Text.assemble((cell.text, "bold" if cell.best else ""), ("*" if cell.differs else " ", "dim"))
            for cell in line.cells
        ]
        shown.add_row(line.method, *cells, end_section=last)
    return shown


def summary_markdown(results: Results) -> str:
    """summary.md: how it was made, the headline, every task in detail, what did not run."""
    short = _tables_markdown(all_short_tables(results)).strip()
    parts = ["# attnpatch evaluation", _header(results), short, *notes(results)]
    for length in sorted({row.length for row in results.rows}, key=by_length):
        rows = [row for row in results.rows if row.length == length]
        for task, metric in dict.fromkeys((row.task, row.metric) for row in rows):
            parts += [f"## {task}, {metric.replace('_', ' ')}, {length_text(length)}", _about(results, task, length)]
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


def _about(results: Results, task: str, length: int | None) -> str:
    cell = next(c for c in results.scored if c["task"]["name"] == task and c["length"] == length and c["status"] == OK)
    chance = cell["task"]["chance"]
    pictures = len(set(cell.get("images") or ()))
    text = f"{cell['task']['description']}; {len(cell['documents'])} documents"
    text += f" about {pictures} pictures" if pictures else ""
    text += f"; chance {chance:.3g}" if chance else ""
    return text + ("; n small" if (pictures or len(cell["documents"])) < 30 else "") + "."


def _detail(rows: list[Row]) -> str:
    routed = any(row.omega is not None for row in rows)
    columns = [
        "method",
        "keys",
        *(["Ω"] if routed else []),
        "value",
        "95 % interval",
        "Δ to stock",
        "95 % interval of Δ",
        "McNemar p",
        "sd (seeds)",
    ]
    return markdown_table(columns, [_detail_line(row, routed) for row in rows])


def _detail_line(row: Row, routed: bool) -> list[str]:
    omega = "-" if row.omega is None else f"{row.omega:.2f}"
    return [
        row.method if row.budget is None else f"{row.method} @{row.budget}",
        "-" if row.mean_keys is None else f"{row.mean_keys:.1f}",
        *([omega] if routed else []),
        f"**{row.value:.3f}**" if row.best else f"{row.value:.3f}",
        "-" if row.low is None else f"{row.low:.3f} to {row.high:.3f}",
        *delta_texts(row),
        "-" if row.p is None else f"{row.p:.2g}",
        "-" if row.sd is None else f"{row.sd:.3f} ({row.seeds})",
    ]


def _configs(results: Results) -> str:
    seen: dict[str, dict[str, list[str]]] = {}
    for row in results.rows:
        name = row.method if row.budget is None else f"{row.method} @{row.budget}"
        configs = seen.setdefault(f"{name}, {length_text(row.length)}", {})
        configs.setdefault(json.dumps(row.config, sort_keys=True), []).append(row.task)
    return "\n".join(
        f"- {name}{f', {_listed(asked)}' if len(configs) > 1 else ''}: `{config}`"
        for name, configs in seen.items()
        for config, asked in configs.items()
    )


def _listed(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def status_line(results: Results) -> str:
    """`101 cells ok, 4 skipped, 0 failed` and so on."""
    counts: dict[str, Any] = {status: results.count(status) for status in ("ok", "skipped", "error")}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "ok")
