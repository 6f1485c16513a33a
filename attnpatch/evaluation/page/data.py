"""Everything that the page shows, as one JSON value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.cells import ERROR, OK, SKIPPED, without_nan
from attnpatch.evaluation.page import facts, lines
from attnpatch.evaluation.page.depth import depth_grids
from attnpatch.evaluation.page.documents import Documents
from attnpatch.evaluation.page.published import published
from attnpatch.evaluation.tables import notes

if TYPE_CHECKING:
    from attnpatch.evaluation.results import Results


def page_data(results: Results, folder: Path | None = None) -> dict[str, Any]:
    """The page's data, as JSON types without NaN.

    folder: where the run's samples lie; without it the page has scores per document, but not what was answered.
    """
    keys, columns = lines.line_keys(results.rows), lines.column_keys(results.rows)
    documents = Documents(results, folder, keys, columns).to_dict()
    shown, filled = lines.columns(results), lines.lines(results)
    before = len(shown)
    lines.add_means(shown, filled)
    for panel in documents["scores"]:
        panel["column"] += len(shown) - before
    lines.mark_fronts(shown, filled)
    suite = results.run.get("suite", {})
    return without_nan(
        {
            "model": str(results.run.get("model", {}).get("id", "model")),
            "about": suite.get("description") or "",
            "unpatched": results.run.get("unpatched"),
            "counts": {status: results.count(status) for status in (OK, SKIPPED, ERROR)},
            "columns": shown,
            "lines": filled,
            "published": published(results.beside, keys, columns, shown),
            "depth": depth_grids(results, keys),
            "documents": documents,
            "facts": facts.facts(results),
            "configs": facts.configs(results, keys),
            "problems": results.problems(),
            "notes": notes(results),
        }
    )
