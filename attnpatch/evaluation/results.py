"""Results: the cells of a run, the rows made from them, and the files they are kept in."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from attnpatch.evaluation.beside import Beside, beside, to_csv
from attnpatch.evaluation.cells import ERROR, OK, SKIPPED, without_nan, write_atomically
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.groups import group_cells
from attnpatch.evaluation.ruler import report as ruler
from attnpatch.evaluation.summary import Row, options_of, rows

SCHEMA = 1


@dataclass
class Results:
    """What an evaluation found.

    Attributes:
        cells: one dict per cell, with status, scores per document, budget, speed and the patch's report.
        run: suite, model, command, versions, machine, seconds, peak memory of the process, `unpatched`.
    """

    cells: list[dict[str, Any]]
    run: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def rows(self) -> list[Row]:
        """One row per method, budget, task or group of tasks, length and metric, averaged over seeds."""
        return rows(self.scored)

    @cached_property
    def scored(self) -> list[dict[str, Any]]:
        """The cells, and one more for every group of tasks whose cells are all ok."""
        return self.cells + group_cells(self.cells, self.run.get("groups") or [])

    @cached_property
    def beside(self) -> list[Beside]:
        """What the suite says others reported for this model, beside ours; empty for most suites."""
        model = str(self.run.get("model", {}).get("id", ""))
        return beside(self.rows, self.run.get("suite", {}).get("reported") or [], model)

    def count(self, status: str) -> int:
        """Cells with this status: "ok", "skipped" or "error"."""
        return sum(cell["status"] == status for cell in self.cells)

    @property
    def unpatch_failed(self) -> bool:
        return self.run.get("unpatched") is False

    def exit_code(self, strict: bool = False) -> int:
        """0 if something was measured and the model came back bit for bit; `strict` also asks for every cell."""
        failed = self.unpatch_failed or not self.count(OK)
        return int(failed or (strict and self.count(OK) < len(self.cells)))

    def problems(self) -> list[str]:
        """One line per different reason why cells were skipped or failed, or why entries of their files were."""
        lines: dict[str, int] = {}
        for cell in self.cells:
            if cell["status"] != OK:
                line = f"{cell['status']}: {cell['reason']} ({cell['fix']})"
                lines[line] = lines.get(line, 0) + 1
            left_out = (cell["task"].get("details") or {}).get("left_out") or {}
            if left_out.get("count"):
                line = (
                    f"{cell['task']['name']}: {left_out['count']} entries left out, the first: {left_out['first'][0]}"
                )
                lines[line] = lines.get(line, 0) + 1
        return [f"{line}" + (f" [{count} cells]" if count > 1 else "") for line, count in lines.items()]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON types without NaN."""
        return without_nan(
            {
                "schema": SCHEMA,
                "run": self.run,
                "counts": {status: self.count(status) for status in (OK, SKIPPED, ERROR)},
                "summary": [row.to_dict() for row in self.rows],
                **({"ruler": found} if (found := ruler.to_dict(self.rows)) else {}),
                **({"reported": [line.to_dict() for line in self.beside]} if self.beside else {}),
                "cells": self.cells,
            }
        )

    def to_markdown(self) -> str:
        """The whole summary: headline table, then every task with intervals, differences and tests."""
        from attnpatch.evaluation.tables import summary_markdown

        return summary_markdown(self)

    def to_csv(self) -> str:
        """Long form: one line per cell and metric."""
        out = io.StringIO()
        writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records())
        return out.getvalue()

    def records(self) -> list[dict[str, Any]]:
        """One flat dict per cell and metric; cells that are not ok have one with a reason."""
        return [record for cell in self.cells for record in _flat(cell)]

    def to_pandas(self):
        """The rows of `rows` as a DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError('to_pandas() needs pandas: pip install "attnpatch[eval]"') from error
        names = [column.name for column in fields(Row)]
        return pandas.DataFrame([row.to_dict() for row in self.rows], columns=names)

    def plot(self, folder: str | Path) -> list[Path]:
        """Draw the plots into `folder`; returns the files.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from attnpatch.evaluation.plots import draw

        return draw(self, Path(folder))

    def save(self, folder: str | Path) -> list[Path]:
        """Write results.json, results.csv, summary.md and the page, the plots where matplotlib is installed, and
        reported.csv where the suite knows published numbers.
        """
        from attnpatch.evaluation.page import write_page

        folder = Path(folder)
        texts = {
            "results.json": json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n",
            "results.csv": self.to_csv(),
            "summary.md": self.to_markdown(),
            **({"reported.csv": to_csv(self.beside)} if self.beside else {}),
        }
        for name, text in texts.items():
            write_atomically(folder / name, text)
        written = [*(folder / name for name in texts), write_page(self, folder)]
        try:
            return written + self.plot(folder / "plots")
        except ImportError as error:
            self.run["plots"] = f"skipped: {error}"
            return written

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Results from a folder that `save` wrote, or from its results.json.

        Raises:
            UsageError: no such file, or not a results file.
        """
        path = Path(path)
        file = path / "results.json" if path.is_dir() else path
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            return cls(data["cells"], data["run"])
        except FileNotFoundError as error:
            raise UsageError(f"{str(file)!r} does not exist. Give the --output-path of a finished run.") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{str(file)!r} is not a results.json of attnpatch-eval: {error!r}") from error


CSV_COLUMNS = (
    "status", "reason", "model", "fingerprint", "dtype", "method", "config", "budget", "mean_keys", "decode_mean_keys",
    "omega", "task", "source", "length", "seed", "metric", "value", "low", "high", "documents", "prefill_tokens_per_s",
    "decode_tokens_per_s", "peak_memory", "seconds", "key",
)  # fmt: skip


def _flat(cell: dict[str, Any]) -> list[dict[str, Any]]:
    speed = {phase: (values or {}).get("tokens_per_s") for phase, values in cell["speed"].items()}
    common = {
        "status": cell["status"],
        "reason": cell["reason"],
        "model": cell["model"]["id"],
        "fingerprint": cell["model"]["fingerprint"],
        "dtype": cell["model"]["dtype"],
        "method": cell["method"]["label"],
        "config": json.dumps(options_of(cell["method"]), sort_keys=True),
        "budget": cell["budget"]["target"],
        "mean_keys": cell["budget"]["mean_keys"],
        "decode_mean_keys": cell["budget"]["decode_mean_keys"],
        "omega": cell.get("omega"),
        "task": cell["task"]["name"],
        "source": cell["task"]["source"],
        "length": cell["length"],
        "seed": cell["seed"],
        "documents": len(cell["documents"]),
        "prefill_tokens_per_s": speed["prefill"],
        "decode_tokens_per_s": speed["decode"],
        "peak_memory": max(cell["peak_memory"].values()) if cell["peak_memory"] else None,
        "seconds": cell["seconds"],
        "key": cell["key"],
    }
    if not cell["metrics"]:
        return [common]
    return [{**common, "metric": name, **interval} for name, interval in cell["metrics"].items()]
