"""What `check` says about one thing that a run needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

OK, UNKNOWN, MISSING = "ok", "unknown", "missing"


@dataclass(frozen=True)
class Finding:
    """One line.

    part: "model", "machine", "method" or "task". status: "ok", "missing" (cells will be skipped or fail), "unknown"
    (cannot be told from here). found: what there is, or what is wrong. fix: how to get what is missing.
    """

    part: str
    name: str
    status: str
    found: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def all_there(findings: Iterable[Finding]) -> bool:
    """True if nothing is missing."""
    return all(finding.status != MISSING for finding in findings)
