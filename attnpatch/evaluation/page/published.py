"""Published numbers on the page: each with the line and the column of the table whose score it stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnpatch.evaluation.beside import NOTE, Beside
from attnpatch.evaluation.page.lines import Column, Key, line_name
from attnpatch.evaluation.reported import WHOLE


def published(
    found: Sequence[Beside], keys: Sequence[Key], columns: Sequence[Column], shown: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What others published, one entry per number.

    Every entry is the `Beside` and: line, column, the place of our score in the table, None where it has none; value,
    the published number in the unit of our scores.

    keys, columns: of the rows. shown: the columns of the table, with those of the means in front.
    """
    lines = {(line_name(method, budget), length): index for index, (method, budget, length) in enumerate(keys)}
    return {
        "note": NOTE if found else "",
        "numbers": [
            {
                **one.to_dict(),
                "line": lines.get((one.method, one.length)),
                "column": _column(one.scores, columns, shown),
                "value": one.reported / one.scale,
            }
            for one in found
        ],
    }


def _column(scores: Sequence[Column], columns: Sequence[Column], shown: Sequence[dict[str, Any]]) -> int | None:
    """The column of the only task, or of the mean over exactly these."""
    means = len(shown) - len(columns)
    if len(scores) == 1:
        return means + columns.index(scores[0]) if scores[0] in columns else None
    for index, mean in enumerate(shown[:means]):
        metric = "accuracy" if mean["metric"] == "accuracy" else WHOLE  # the other mean is RULER's
        if {(task, metric) for task in mean["over"]} == set(scores):
            return index
    return None
