"""What is wrong with annotation files, entry by entry: it ends the reading, or is counted and left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnpatch.evaluation.errors import UsageError
from attnpatch.patching.errors import did_you_mean

STOP, SKIP = "stop", "skip"
ON_BAD = (STOP, SKIP)
NAMED = 5  # so many are named, the others are counted


@dataclass
class Problems:
    """The bad entries found so far.

    on_bad: "stop" raises UsageError at the first one, "skip" leaves it out and goes on.

    Raises:
        UsageError: another `on_bad`.
    """

    on_bad: str = STOP
    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_bad not in ON_BAD:
            raise UsageError(
                f"on_bad {self.on_bad!r} is not known.{did_you_mean(str(self.on_bad), ON_BAD)} "
                f"Allowed: {', '.join(ON_BAD)}."
            )

    def add(self, place: str, what: str) -> None:
        """Note that the entry at `place` is not used. Raises UsageError with `on_bad="stop"`."""
        line = f"{place}: {what}"
        if self.on_bad == STOP:
            raise UsageError(f"{line}. Mend or remove it, or leave such entries out with --on-bad skip.")
        self.found.append(line)

    def complete(self, place: str, row: dict[str, Any], needed: tuple[str, ...], *, blank: bool = False) -> bool:
        """Does `row` hold all that is needed? If not, that is noted. blank: empty text will do."""
        lacking = [name for name in needed if row.get(name) is None or (not blank and row[name] == "")]
        if lacking:
            self.add(place, f"it has no {', '.join(lacking)}")
        return not lacking

    def to_dict(self) -> dict[str, object]:
        """How many entries were left out, and the first of them."""
        return {"count": len(self.found), "first": self.found[:NAMED]}
