"""What one sees while an evaluation runs: bars on a terminal, one line per finished method elsewhere, or nothing."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Silent(AbstractContextManager):
    """Shows nothing; the base of the others."""

    def start(self, cells: int, documents: int) -> None:
        """Called once, with the number of cells and documents to be run."""

    def cell(self, label: str, group: str) -> None:
        """A cell begins; `group` is its method and budget."""

    def advance(self, documents: int) -> None:
        """So many more documents are done."""

    def done(self, status: str, reason: str | None) -> None:
        """The cell is finished."""

    def log(self, message: str) -> None:
        """A line worth reading."""

    def __exit__(self, *exception: object) -> None:
        return None


class Lines(Silent):
    """One line per finished method and budget, for logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.group, self.cells, self.failed, self.began = "", 0, 0, time.monotonic()

    def cell(self, label: str, group: str) -> None:
        if group != self.group:
            self._flush()
            self.group, self.cells, self.failed = group, 0, 0

    def done(self, status: str, reason: str | None) -> None:
        self.cells += 1
        if status != "ok":
            self.failed += 1
            self.log(f"{status}: {reason}")

    def log(self, message: str) -> None:
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _flush(self) -> None:
        if self.group:
            failed = f", {self.failed} not ok" if self.failed else ""
            self.log(f"[{time.monotonic() - self.began:6.1f} s] {self.group}: {self.cells} cells{failed}")

    def __exit__(self, *exception: object) -> None:
        self._flush()


class Bars(Silent):
    """Two bars: cells, and documents of all cells."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True, expand=True)

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def start(self, cells: int, documents: int) -> None:
        self.cells = self.progress.add_task("cells", total=cells)
        self.documents = self.progress.add_task("documents", total=documents)

    def cell(self, label: str, group: str) -> None:
        self.progress.update(self.cells, description=label)

    def advance(self, documents: int) -> None:
        self.progress.advance(self.documents, documents)

    def done(self, status: str, reason: str | None) -> None:
        self.progress.advance(self.cells)
        if status != "ok":
            self.log(f"{status}: {reason}")

    def log(self, message: str) -> None:
        self.progress.console.print(message, markup=False, highlight=False)


def reporter(quiet: bool = False) -> Silent:
    """The right one for this process's stderr."""
    if quiet:
        return Silent()
    console = Console(stderr=True)
    return Bars(console) if console.is_terminal else Lines(console)
