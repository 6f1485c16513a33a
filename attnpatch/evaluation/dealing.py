"""Cells that cannot be split over processes: whole ones are dealt out, so that each is what it is in one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attnpatch.evaluation.plan import PlannedCell


def is_dealt(cell: PlannedCell, processes: int) -> bool:
    """True for a cell that one of several processes runs alone."""
    return processes > 1 and cell.skip is None and cell.task.whole


def hands(cells: Iterable[PlannedCell], processes: int) -> Iterator[list[PlannedCell]]:
    """The cells in the order they run: first those that all processes work on, one by one, then as
    many at a time as there are processes.

    All methods of a task come in a row: they take about as long, so no process waits long for another one's cell.
    """
    dealt: dict[tuple[str, int | None], list[PlannedCell]] = {}
    for cell in cells:
        if is_dealt(cell, processes):
            dealt.setdefault((cell.task_name, cell.length), []).append(cell)
        else:
            yield [cell]
    rest = [cell for alike in dealt.values() for cell in alike]
    for start in range(0, len(rest), processes):
        yield rest[start : start + processes]
