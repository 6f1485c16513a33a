"""What a benchmark returns: rows for programs, a table for people, files with everything needed to repeat it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from string import Formatter
from textwrap import fill
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from attnpatch.bench.machine import machine_line
from attnpatch.patching.errors import AttnPatchError

Progress = Callable[[int, int, str], None]  # runs done, runs in all, what comes next


def silent(done: int, total: int, text: str) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True)
class Column:
    """A column of the table: its title with the unit, and a format over the row such as "{speedup:.2f}x"."""

    title: str
    form: str
    left: bool = False

    def text(self, row: dict[str, Any]) -> str:
        """The cell; "-" where a value it needs was not measured."""
        needed = [name for _, name, _, _ in Formatter().parse(self.form) if name]
        return "-" if any(row.get(name) is None for name in needed) else self.form.format_map(row)


@dataclass(frozen=True)
class Result:
    """One benchmark. name: stem of its files; settings: everything that was chosen; rows: one dict per line."""

    name: str
    title: str
    settings: dict[str, Any]
    columns: list[Column]
    rows: list[dict[str, Any]]
    machine: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    draw: Callable[[Any, list[dict[str, Any]]], None] | None = None  # draws the rows into matplotlib axes

    def to_dict(self, command: str | None = None) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "command": command,
            "settings": self.settings,
            "machine": self.machine,
            "notes": self.notes,
            "rows": self.rows,
        }

    def to_markdown(self, command: str | None = None) -> str:
        lines = [f"# {self.title}", ""]
        if command:
            lines += [f"`{command}`", ""]
        lines.append("| " + " | ".join(column.title for column in self.columns) + " |")
        lines.append("| " + " | ".join("---" for _ in self.columns) + " |")
        lines += ["| " + " | ".join(column.text(row) for column in self.columns) + " |" for row in self.rows]
        lines += ["", *(f"* {note}" for note in self.notes), f"* {machine_line(self.machine)}"]
        return "\n".join(lines) + "\n"

    def __rich__(self) -> Group:
        table = Table(title=self.title)
        for column in self.columns:
            table.add_column(column.title, justify="left" if column.left else "right")
        for row in self.rows:
            table.add_row(*(column.text(row) for column in self.columns))
        return Group(table, *(Text(note) for note in self.notes), Text(machine_line(self.machine), style="dim"))


def check_output(folder: Path, *, plot: bool) -> None:
    """Raise AttnPatchError now, not after the runs, if `folder` cannot be written or the plot cannot be drawn."""
    if folder.exists() and not folder.is_dir():
        raise AttnPatchError(f"output folder {str(folder)!r} is a file; name a folder.")
    if plot and find_spec("matplotlib") is None:
        raise AttnPatchError(
            "the plot needs matplotlib: `pip install 'attnpatch[eval]'`, or leave it out (--no-plot)."
        )


def write(result: Result, folder: Path, *, command: str | None = None, plot: bool = True) -> list[Path]:
    """Write `<name>.json`, `<name>.md` and, with `plot`, `<name>.png` into `folder`; returns their paths."""
    check_output(folder, plot=plot)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / result.name
    files = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    files[0].write_text(json.dumps(result.to_dict(command), indent=2) + "\n")
    files[1].write_text(result.to_markdown(command))
    if plot and result.draw is not None:
        files.append(stem.with_suffix(".png"))
        _save_plot(result, files[-1])
    return files


def _save_plot(result: Result, file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    result.draw(axes, result.rows)
    axes.set_title(fill(result.title, 90), fontsize=10)
    figure.savefig(file, dpi=150)
