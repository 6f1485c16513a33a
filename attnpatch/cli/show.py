"""`attnpatch show METHOD`: one method or companion of decoding in full."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from attnpatch.cli.console import JsonFlag, examples, show, show_json, user_errors
from attnpatch.cli.describe import as_text, describe, describe_companion
from attnpatch.patching import method_class, method_names
from attnpatch.patching.errors import unknown_name

EXAMPLES = examples("attnpatch show sliding", "attnpatch show stochastic --json")


@user_errors
def show_method(
    method: Annotated[str, typer.Argument(help="A name from `attnpatch list`.", show_default=False)],
    json: JsonFlag = False,
) -> None:
    """Show one method or companion: options, paper, neutral setting, what it needs, and how to use it."""
    described = _described(method)
    if json:
        show_json(described)
        return
    show(_facts(described), _options(described), *_released(described))
    typer.echo(_usage(described))  # whole lines, however narrow the terminal, so that they can be copied


def _described(name: str) -> dict[str, Any]:
    from attnpatch import decoding

    if name in method_names():
        return describe(method_class(name))
    if name in decoding.NAMES:
        return describe_companion(decoding.companion_class(name))
    raise unknown_name("method or companion", name, (*method_names(), *decoding.NAMES))


def _facts(described: dict[str, Any]) -> Table:
    table = Table(title=described["name"], show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for key in ("summary", "paper", "neutral", "limits", "evidence"):
        if described[key]:
            table.add_row(key, described[key])
    table.add_row("needs", "\n".join(f"- {need}" for need in described["needs"]))
    table.add_row("source", described["source"])
    return table


def _options(described: dict[str, Any]) -> Table | Text:
    if not described["options"]:
        return Text("It has no options.")
    table = Table(title="options")
    for title in ("option", "type", "default", "allowed", "help"):
        table.add_column(title, no_wrap=title in ("option", "type"))
    for option in described["options"]:
        default = "(required)" if option["required"] else as_text(option["default"])
        table.add_row(option["name"], option["type"], default, option["allowed"], option["help"])
    return table


def _released(described: dict[str, Any]) -> list[Table]:
    if not described["released"]:
        return []
    table = Table("here and in the paper", "released code", title="where the authors' code differs")
    for row in described["released"].items():
        table.add_row(*row)
    return [table]


def _usage(described: dict[str, Any]) -> str:
    return "\n".join(f"{what + ':':<10}{line}" for what, line in described["examples"].items())
