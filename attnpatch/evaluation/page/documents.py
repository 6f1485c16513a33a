"""Scores document by document, and what was answered where the samples lie beside the results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.cells import OK, CellStore
from attnpatch.evaluation.page.lines import Column, Key
from attnpatch.evaluation.summary import Columns, averaged
from attnpatch.evaluation.task_metrics import metric_of

if TYPE_CHECKING:
    from attnpatch.evaluation.results import Results

MOST_SCORES = 400_000  # about 2 MB of page; what comes after is left out, and the page says so
MOST_TEXT = 1_500_000  # characters of answers
LONGEST = 160  # characters of one answer
Cell = dict[str, Any]


class Documents:
    """Collects the scores and answers of a run's documents, in the order of its cells, up to the page's limits.

    Attributes:
        scores: per column and length the document ids, and per line one score a document, averaged over seeds.
        answers: per task and length what was wanted, and per line what was answered, one text a document.
        left_out: columns and lengths without scores, for size.
        text: why answers are missing, or None if all are there.
    """

    def __init__(self, results: Results, folder: Path | None, keys: list[Key], columns: list[Column]) -> None:
        self.scores: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.left_out = 0
        self._store = CellStore(folder) if folder is not None else None
        self._room, self._letters, self._missing, self._cut = MOST_SCORES, MOST_TEXT, 0, False
        asked = _by_task(results, keys)
        for (task, length), lines in asked.items():
            for index, (name, metric) in enumerate(columns):
                if name == task:
                    self._add_scores(index, metric, length, lines)
            self._add_answers(task, length, lines)
        self.text = self._why(sum(len(seeds) for lines in asked.values() for seeds in lines.values()))

    def to_dict(self) -> dict[str, Any]:
        return {"scores": self.scores, "answers": self.answers, "left_out": self.left_out, "text": self.text}

    def _add_scores(self, column: int, metric: str, length: int | None, lines: dict[int, list[Cell]]) -> None:
        scored = {line: seeds for line, seeds in lines.items() if metric in seeds[0]["scores"]}
        if not scored:
            return
        ids = next(iter(scored.values()))[0]["documents"]
        self._room -= len(ids) * len(scored)
        if self._room < 0:
            self.left_out += 1
            return
        kind = metric_of(next(iter(scored.values()))[0], metric)
        values = {line: _per_document(averaged(seeds, metric), kind) for line, seeds in scored.items()}
        self.scores.append({"column": column, "length": length, "ids": ids, "lines": values})

    def _add_answers(self, task: str, length: int | None, lines: dict[int, list[Cell]]) -> None:
        wanted: list[str] = []
        given: dict[int, list[str]] = {}
        for line, seeds in lines.items():
            records = [self._records(cell) for cell in seeds]
            self._missing += sum(one is None for one in records)
            if any(one is None for one in records):
                continue
            wanted = wanted or [_text(one, "references", "target") for one in records[0]]
            given[line] = [_seeds(texts) for texts in zip(*(map(_answer, one) for one in records), strict=True)]
        if not any(map(any, given.values())):  # running text: nothing that one could read was kept
            return
        letters = sum(map(len, wanted)) + sum(len(text) for texts in given.values() for text in texts)
        if letters > self._letters:
            self._cut = True
            return
        self._letters -= letters
        self.answers.append({"task": task, "length": length, "wanted": wanted, "lines": given})

    def _records(self, cell: Cell) -> list[dict[str, Any]] | None:
        """The samples of a cell; None if they are not there, or are not those that were scored."""
        if self._store is None:
            return None
        try:
            lines = self._store.samples_path(cell["key"]).read_text(encoding="utf-8").splitlines()
            records = [json.loads(line) for line in lines]
            return records if [one["id"] for one in records] == cell["documents"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _why(self, cells: int) -> str | None:
        if self._missing == cells:
            return "What was answered is not in this page: there is no samples folder beside the results."
        if self._missing:
            return f"The answers of {self._missing} of {cells} cells are not beside the results."
        if self._cut:
            return "Some answers were left out to keep the page small; they are in the samples folder of the run."
        return None


def _by_task(results: Results, keys: list[Key]) -> dict[tuple[str, int | None], dict[int, list[Cell]]]:
    """`{(task, length): {line: cells of all seeds}}`; lines that were asked other documents than the first are out."""
    index = {key: i for i, key in enumerate(keys)}
    found: dict[tuple[str, int | None], dict[int, list[Cell]]] = {}
    for cell in results.cells:
        line = index.get((cell["method"]["label"], cell["budget"]["target"], cell["length"]))
        if cell["status"] == OK and line is not None:
            found.setdefault((cell["task"]["name"], cell["length"]), {}).setdefault(line, []).append(cell)
    return {asked: _alike(lines) for asked, lines in found.items()}


def _alike(lines: dict[int, list[Cell]]) -> dict[int, list[Cell]]:
    first = next(iter(lines.values()))[0]["task"]["documents"]
    return {line: seeds for line, seeds in lines.items() if all(c["task"]["documents"] == first for c in seeds)}


def _per_document(columns: Columns, metric: Any) -> list[float | None]:
    return [
        None if not weight else _rounded(_one(total / weight, metric))
        for total, weight in zip(columns["sums"], columns["weights"], strict=True)
    ]


def _one(value: float, metric: Any) -> float:
    return math.exp(min(value, 700)) if metric.kind == "perplexity" else value * metric.scale


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _answer(record: dict[str, Any]) -> str:
    return _text(record, "prediction", "predicted", "answers")


def _text(record: dict[str, Any], *names: str) -> str:
    """The first of these fields that a record has, as text; numbers in a list are token ids."""
    value = next((record[name] for name in names if name in record), "")
    if isinstance(value, list):
        plain = all(isinstance(one, (str, int)) for one in value)
        value = " ".join(map(str, value)) if plain else json.dumps(value, ensure_ascii=False)
    text = str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _seeds(texts: tuple[str, ...]) -> str:
    """One text for all seeds, each of them only if they differ."""
    different = list(dict.fromkeys(texts))
    return different[0] if len(different) == 1 else " / ".join(texts)
