"""What others published beside what a run measured: as lines, tables and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

from attnpatch.evaluation import tasks
from attnpatch.evaluation.headline import Cell, Line, ShortTable
from attnpatch.evaluation.methods import same_model
from attnpatch.evaluation.reported import WHOLE, Reported
from attnpatch.evaluation.summary import Row

COLUMNS = ("length", "reported", "ours", "difference", "documents")
NOTE = (
    "Reported numbers stand as their source prints them, ours are measured in this run; - where not every task of a "
    "score ran. Other documents, prompts, harnesses and precisions move scores, so read each entry's note."
)


@dataclass(frozen=True)
class Beside:
    """A published number and ours. ours, difference: None unless all `tasks` of the score ran (`measured` did).

    scores: the tasks, each with the metric that counts. scale: what our scores are multiplied by to compare.
    """

    name: str
    method: str
    length: int | None
    reported: float
    ours: float | None
    difference: float | None
    measured: int
    tasks: int
    documents: int
    source: str
    tag: str
    note: str
    scores: tuple[tuple[str, str], ...]
    scale: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def beside(rows: Sequence[Row], given: Iterable[Reported | dict[str, Any]], model: str) -> list[Beside]:
    """Every published number for `model` of the entries that this run measured something of."""
    found = []
    for entry in given:
        entry = entry if isinstance(entry, Reported) else Reported(**entry)
        if same_model(entry.model, model):
            lines = [_line(rows, entry, method, *value) for method in entry.values for value in entry.at(method)]
            found += lines if any(line.measured for line in lines) else []
    return found


def _line(rows: Sequence[Row], entry: Reported, method: str, length: int | None, value: float) -> Beside:
    wanted = [(task, metric) for name, metric in entry.scores.items() for task in tasks.expand(name)]
    own = [row for row in rows if row.name == method and row.length == length]
    scored = [row for row in own if {(row.task, row.metric), (row.task, WHOLE)} & set(wanted)]
    ours = entry.scale * fmean(row.value for row in scored) if len(scored) == len(wanted) else None
    return Beside(
        name=entry.name,
        method=method,
        length=length,
        reported=value,
        ours=ours,
        difference=None if ours is None else ours - value,
        measured=len(scored),
        tasks=len(wanted),
        documents=sum(row.documents for row in scored),
        source=entry.source,
        tag=entry.tag,
        note=entry.note,
        scores=tuple(wanted),
        scale=entry.scale,
    )


def beside_tables(lines: Sequence[Beside]) -> list[ShortTable]:
    """One table per published score; the first column is the length where there are several."""
    tables = []
    for name in dict.fromkeys(line.name for line in lines):
        own = [line for line in lines if line.name == name]
        tables.append(ShortTable(f"{name}, reported and ours", list(COLUMNS), [_table_line(line) for line in own]))
    return tables


def _table_line(line: Beside) -> Line:
    part = "" if line.measured == line.tasks or not line.measured else f" ({line.measured}/{line.tasks} tasks)"
    texts = (
        "-" if line.length is None else str(line.length),
        f"{line.reported:.2f}",
        ("-" if line.ours is None else f"{line.ours:.2f}") + part,
        "-" if line.difference is None else f"{line.difference:+.2f}",
        str(line.documents or "-"),
    )
    return Line(line.method, None, [Cell(text) for text in texts])


def sources(lines: Sequence[Beside]) -> list[str]:
    """Where each score comes from, and what has to be known about it."""
    told = [f"{line.name}: {line.source} [{line.tag}]. {line.note}".strip() for line in lines]
    return [NOTE, *dict.fromkeys(told)] if told else []


def to_csv(lines: Sequence[Beside]) -> str:
    """One line per published number."""
    out = io.StringIO()
    names = [column.name for column in fields(Beside) if column.name not in ("scores", "scale")]
    writer = csv.DictWriter(out, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(line.to_dict() for line in lines)
    return out.getvalue()
