"""How many documents share a forward: the number asked for, or, for "auto", as many as memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from attnpatch.evaluation.plan import PlannedCell

AUTO = "auto"
LARGEST = 64  # documents; behind it a forward hardly gets faster
TOKENS = {"cpu": 2**13, "cuda": 2**19}  # per forward, to begin with: a CPU would swap where a GPU raises

BatchSize = int | str  # a number, or AUTO


def parse_batch_size(value: Any) -> BatchSize:
    """Documents per forward from a number or text; "auto" stays.

    Raises:
        ValueError: neither.
    """
    if value == AUTO:
        return AUTO
    try:
        if isinstance(value, bool) or int(value) != float(value) or int(value) < 1:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError("must be a number of documents, 1 or more, or auto") from None
    return int(value)


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
        tokens = _longest(cell)
        needs = (cell.task.mode, tokens, cell.method.name)
        size = min(self._first(len(cell.documents), tokens, device), self._found.get(needs, LARGEST))
        while size:
            yield size
            size //= 2
            self._found[needs] = max(1, size)

    def _first(self, documents: int, tokens: int, device: torch.device) -> int:
        rows = TOKENS.get(device.type, TOKENS["cuda"]) // tokens
        return max(1, min(LARGEST, -(-documents // self.processes), rows))


def _longest(cell: PlannedCell) -> int:
    """Tokens of a row: those the length promises, or the longest prompt where documents are as long as they are."""
    if cell.task.inputs is not None:
        return _with_picture(cell)
    asked = (cell.fields.get("lm_eval") or {}).get("prompt_tokens") or {}
    return max([cell.length or 0, asked.get("longest", 0), *(len(one.input_ids) for one in cell.documents)])


def _with_picture(cell: PlannedCell) -> int:
    """Tokens of the first prompt, its picture among them."""
    try:
        return cell.task.inputs(cell.documents[0])["input_ids"].shape[1]
    except Exception:  # noqa: BLE001 - the same error comes back when the cell is scored, and is kept there
        return 1024


def ran_out_of_memory(error: BaseException) -> bool:
    """True for what torch raises when memory is full, on a GPU, in one of its libraries, or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
