"""How many documents share a forward: the number asked for, or, for "auto", as many as memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from attnpatch.evaluation.plan import PlannedCell

AUTO = "auto"
LARGEST = 64  # documents; behind it a forward hardly gets faster
TOKENS = {"cpu": 2**13, "cuda": 2**19}  # per forward, to begin with: a CPU would swap where a GPU raises

BatchSize = int | str  # a number, or AUTO


class BatchSizes:
    """Batch sizes of one run. What did not fit for a method at a length is not tried again.

    processes: how many share the documents; each should get some.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        self._found: dict[tuple, int] = {}

    def tries(self, cell: PlannedCell, device: torch.device) -> Iterator[int]:
        """The sizes to try, from the first on; ask for the next one after memory ran out."""
        asked = cell.fields["batch_size"]
        if asked != AUTO:
            yield asked
            return
        needs = (cell.task.mode, cell.length, cell.method.name)
        size = min(self._first(cell, device), self._found.get(needs, LARGEST))
        while size:
            yield size
            size //= 2
            self._found[needs] = max(1, size)

    def _first(self, cell: PlannedCell, device: torch.device) -> int:
        longest = max(len(document.input_ids) for document in cell.documents)
        tokens = TOKENS.get(device.type, TOKENS["cuda"]) // max(longest, cell.length or 0)
        return max(1, min(LARGEST, -(-len(cell.documents) // self.processes), tokens))


def ran_out_of_memory(error: BaseException) -> bool:
    """True for what torch raises when memory is full, on a GPU, in one of its libraries, or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
