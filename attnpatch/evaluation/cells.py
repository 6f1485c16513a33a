"""Cells on disk: named by a hash of everything that matters, written atomically, read back to resume."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

OK, SKIPPED, ERROR = "ok", "skipped", "error"
ABANDONED = 3600  # seconds; writing a file takes less than one


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def cell_seed(seed: int, method: str, task: str, length: int) -> int:
    """The method's seed in one cell: the same in any run order, different in every cell."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{method}|{task}|{length}".encode()).digest()[:4], "big")


def without_nan(value: Any) -> Any:
    """The same structure with NaN and infinities as None, which is what JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a crash, sees either the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path to write to in the place of `path`, which is replaced at the end; after an exception it is left alone."""
    # Random, for runs that share a folder: process ids of two machines can be the same.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class CellStore:
    """The cells of one output folder: `cells/<key>.json`, and what was predicted in `samples/<key>.jsonl`.

    Runs on several machines may share it without locks: equal cells have equal files, and each file appears whole.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def sweep(self) -> None:
        """Delete what killed runs left half written; young files may be those of a run beside this one."""
        for path in self.folder.rglob("*.tmp"):
            with suppress(OSError):  # the other run may have finished it
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()

    def path(self, key: str) -> Path:
        return self.folder / "cells" / f"{key}.json"

    def samples_path(self, key: str) -> Path:
        return self.folder / "samples" / f"{key}.jsonl"

    def read(self, key: str) -> dict[str, Any] | None:
        """The finished cell, or None: a missing, half-written, failed or skipped one is to be run (again)."""
        try:
            cell = json.loads(self.path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        complete = isinstance(cell, dict) and cell.get("key") == key and cell.get("status") == OK
        return cell if complete else None

    def read_speed(self, key: str) -> list[dict[str, Any]] | None:
        """The speed rows under this key, None if there are none."""
        try:
            found = json.loads((self.folder / "speed.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found["rows"] if isinstance(found, dict) and found.get("key") == key else None

    def write_speed(self, key: str, rows: list[dict[str, Any]]) -> None:
        """Keep the speed rows, those of the last run only."""
        text = json.dumps({"key": key, "rows": without_nan(rows)}, indent=1, allow_nan=False)
        write_atomically(self.folder / "speed.json", text + "\n")

    def write(self, cell: dict[str, Any], samples: list[dict[str, Any]]) -> None:
        """Samples first, the cell last: a cell that exists is complete."""
        key = cell["key"]
        if samples:
            lines = (json.dumps(without_nan(sample), allow_nan=False) for sample in samples)
            write_atomically(self.samples_path(key), "\n".join(lines) + "\n")
        write_atomically(self.path(key), json.dumps(without_nan(cell), indent=1, allow_nan=False) + "\n")
