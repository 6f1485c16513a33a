"""What one has to know to read the tables of tasks with pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attnpatch.evaluation.cells import OK

PICTURES = (
    "Tasks with pictures: percent, MME in points (200 a subtask), length in words. Pictures are resampled, not "
    "questions, and metrics recomputed on every resample. POPE: mean of the splits; yes is the positive class, for "
    "AMBER's questions no. CHAIR: chair_i of mentions, chair_s of captions, both lower is better; short captions win "
    "them for free, so recall and length stand beside them."
)
OWN_TABLE = (
    "CHAIR by the table that ships with attnpatch: these numbers compare with each other; with papers only with the "
    "official list, --chair-synonyms."
)


def picture_notes(cells: Iterable[dict[str, Any]]) -> list[str]:
    """Notes on the finished cells with pictures; none without one."""
    shown = [cell for cell in cells if cell["status"] == OK and cell.get("images")]
    own = any(cell["task"].get("details", {}).get("synonyms") == "own" for cell in shown)
    return [*([PICTURES] if shown else []), *([OWN_TABLE] if own else [])]
