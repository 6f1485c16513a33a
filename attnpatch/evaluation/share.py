"""How a cell is split over processes: whole batches in turn, so that every batch is what it is in one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from attnpatch.evaluation.scoring import Outcome
from attnpatch.evaluation.tasks.base import Document
from attnpatch.patching.patch import Patch


class Share:
    """The batches of a cell that one process scores: every `count`-th, from the `rank`-th on.

    A batch is one sequence to a method, and gets the number that it has in one process: what is drawn for it does not
    depend on who scores it. `taken`: number and size of each batch so far.
    """

    def __init__(self, rank: int, count: int, patch: Patch) -> None:
        self.rank, self.count, self.patch = rank, count, patch
        self.taken: list[tuple[int, int]] = []

    def __call__(self, batches: Iterable[list[Document]]) -> Iterator[list[Document]]:
        for number, batch in enumerate(batches):
            if number % self.count == self.rank:
                self.patch.renumber(number)
                self.taken.append((number, len(batch)))
                yield batch


@dataclass
class Part:
    """What one process found in its share of a cell, to be sent to the others.

    failure: what went wrong, as the fields of a cell's result. full: memory ran out. records: by number of the batch.
    counts: of every site, see `SiteStats.counts`.
    """

    failure: dict[str, Any] | None = None
    full: bool = False
    records: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    counts: list[dict[str, Any]] = field(default_factory=list)
    peak_memory: dict[str, int] | None = None

    @classmethod
    def of(cls, outcome: Outcome, share: Share, patch: Patch) -> Part:
        rest, records = iter(outcome.records), {}
        for number, size in share.taken:
            records[number] = [next(rest) for _ in range(size)]
        return cls(records=records, counts=[stats.counts() for _, _, stats in patch.placements()])


def join(parts: list[Part], outcome: Outcome, patch: Patch) -> None:
    """Put into `outcome` and `patch`, which hold the first part, what the other processes found."""
    records = {number: found for part in parts for number, found in part.records.items()}
    outcome.records[:] = [record for number in sorted(records) for record in records[number]]
    last = max(parts, key=lambda part: max(part.records, default=-1))
    for index, (_, _, stats) in enumerate(patch.placements()):
        for part in parts[1:]:
            stats.absorb(part.counts[index])
        stats.cache_bytes_saved = last.counts[index]["cache_bytes_saved"]
