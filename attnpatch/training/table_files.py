"""Opening tables with `datasets`: a data set of the Hub, or local JSONL, JSON and Parquet, one table per file."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnpatch.training.data_settings import Source
from attnpatch.training.problems import DataError

_FORMATS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Table:
    """Rows (a `datasets.Dataset`) and what to call them in messages."""

    name: str
    rows: Any


def open_tables(source: Source, where: str) -> list[Table]:
    """The tables of a source, together at most `source.limit` rows long.

    Raises:
        DataError: `datasets` is not installed, or the data cannot be found or read.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f'{where} needs the package datasets, which is not installed: pip install "attnpatch[train]".'
        ) from error
    tables = [_hub(datasets, source, where)] if source.dataset is not None else _local(datasets, source, where)
    left = source.limit
    kept = []
    for table in tables:
        rows = table.rows if left is None else table.rows.select(range(min(left, len(table.rows))))
        left = None if left is None else left - len(rows)
        kept.append(Table(table.name, rows))
    return [table for table in kept if len(table.rows)] or kept[:1]


def _hub(datasets: Any, source: Source, where: str) -> Table:
    try:
        with quiet_without_terminal():
            rows = datasets.load_dataset(
                source.dataset,
                source.config,
                split=source.split,
                revision=source.revision,
                data_files=source.data_files,
            )
    except Exception as error:  # a dozen types, each means that the data cannot be had
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(
            f"{where} cannot be loaded: {text} Check the id, config and split, log in with `hf auth login` if it is "
            f"gated, or download it where there is a network: hf download --repo-type dataset {source.dataset}."
        ) from error
    return Table(source.name, rows)


def _local(datasets: Any, source: Source, where: str) -> list[Table]:
    patterns = [source.files] if isinstance(source.files, str) else source.files
    return [_file(datasets, path, where) for pattern in patterns for path in _matches(pattern, where)]


def _matches(pattern: str, where: str) -> list[Path]:
    pattern = str(Path(pattern).expanduser())
    found = [Path(pattern)] if Path(pattern).is_file() else [Path(name) for name in sorted(glob.glob(pattern))]
    found = [path for path in found if path.is_file()]
    if not found:
        raise DataError(f"{where}: no file matches {pattern!r}. Paths start at {str(Path.cwd())!r}.")
    return found


def _file(datasets: Any, path: Path, where: str) -> Table:
    kind = _FORMATS.get(path.suffix)
    if kind is None:
        raise DataError(f"{where}: {str(path)!r} is of an unknown kind. Allowed: {', '.join(_FORMATS)}.")
    if path.stat().st_size == 0:
        raise DataError(f"{where}: {str(path)!r} is empty.")
    try:
        with quiet_without_terminal():
            rows = datasets.load_dataset(kind, data_files=[str(path.resolve())], split="train")
    except Exception as error:  # a dozen types; the cause is in the file
        text = _broken_line(path) if kind == "json" else None
        if text is None:
            cause = error.__cause__ or error
            text = "cannot be read: " + " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
        raise DataError(f"{where}: {str(path)!r} {text}") from error
    return Table(str(path), rows)


def _broken_line(path: Path) -> str | None:
    """Which line of a JSONL file is not an object, or None if all are."""
    if path.suffix == ".json":
        return None
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                if not isinstance(json.loads(line), dict):
                    return f"row {number} is not a JSON object: {line.strip()[:60]!r}."
            except json.JSONDecodeError as error:
                return f"row {number} is not JSON: {error.msg} in column {error.colno}."
    return None


@contextmanager
def quiet_without_terminal() -> Iterator[None]:
    """No progress bars of `datasets` where nobody sees them move."""
    import datasets

    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
