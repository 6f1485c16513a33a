"""`attnpatch list`: every method that can be applied, and every companion of decoding."""

from __future__ import annotations

from rich.table import Table

from attnpatch.cli.console import JsonFlag, examples, show, show_json, user_errors
from attnpatch.cli.describe import facts
from attnpatch.patching import methods

EXAMPLES = examples("attnpatch list", "attnpatch list --json")
KEYS = ("name", "summary", "paper", "neutral", "limits")


@user_errors
def list_methods(json: JsonFlag = False) -> None:
    """List methods and decoding companions: what each changes, its paper, its neutral setting and its limits."""
    from attnpatch.decoding import companions

    changing = [facts(method) for method in methods().values()]
    writing = [facts(companion) for companion in companions().values()]
    if json:
        show_json([{key: row[key] for key in ("kind", *KEYS)} for row in (*changing, *writing)])
        return
    show(
        _table("Methods", "method", changing, "`attnpatch show METHOD` for options and examples"),
        _table("Companions of decoding", "companion", writing, 'attnpatch.decoding.generate(model, inputs, "vcd")'),
    )


def _table(title: str, kind: str, rows: list[dict[str, str]], caption: str) -> Table:
    table = Table(title=title, caption=caption)
    for heading in (kind, "what it changes", "paper", "neutral at", "limits"):
        table.add_column(heading, no_wrap=heading == kind)
    for row in rows:
        table.add_row(*(row[key] for key in KEYS))
    return table
