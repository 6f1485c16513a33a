"""`attnpatch list`: every method that can be applied."""

from __future__ import annotations

from rich.table import Table

from attnpatch.cli.console import JsonFlag, examples, show, show_json, user_errors
from attnpatch.cli.describe import describe
from attnpatch.patching import methods

EXAMPLES = examples("attnpatch list", "attnpatch list --json")
KEYS = ("name", "summary", "paper", "neutral", "limits")


@user_errors
def list_methods(json: JsonFlag = False) -> None:
    """List the methods: what each changes, its paper, its neutral setting and its limits."""
    rows = [{key: described[key] for key in KEYS} for described in map(describe, methods().values())]
    if json:
        show_json(rows)
        return
    table = Table(title="Methods", caption="`attnpatch show METHOD` for options and examples")
    for title in ("method", "what it changes", "paper", "neutral at", "limits"):
        table.add_column(title, no_wrap=title == "method")
    for row in rows:
        table.add_row(*(row[key] for key in KEYS))
    show(table)
