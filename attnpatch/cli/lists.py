"""Options that take several values in a row, as in `--seeds 0 1 2`, and options spelled with an underscore."""

from __future__ import annotations

import json
from typing import Any

import typer
from typer.core import TyperCommand

from attnpatch.patching.errors import AttnPatchError


class ListCommand(TyperCommand):
    """A command whose repeatable options also take their values in one go.

    `--seeds 0 1 2` reads as `--seeds 0 --seeds 1 --seeds 2`, and `--batch_size` as `--batch-size`. Only for commands
    without positional arguments: a word behind such an option always belongs to it.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        repeatable = {
            name for parameter in self.params if getattr(parameter, "multiple", False) for name in parameter.opts
        }
        return super().parse_args(ctx, expand(args, repeatable))


def parts(given: list[str] | None) -> list[str]:
    """`["a,b", "c"]` as a list of three."""
    return [part for one in given or [] for part in one.split(",") if part]


def parse_json(option: str, text: str | None) -> Any:
    """The value of a JSON option, None if it was not given. Raises AttnPatchError for text that is not JSON."""
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise AttnPatchError(f"{option} {text!r} is not JSON: {error}. Write it as '{{\"key\": 1}}'.") from error


def expand(args: list[str], repeatable: set[str]) -> list[str]:
    """`args` with the name of a repeatable option before each of its values."""
    out: list[str] = []
    option, fresh = None, False
    for arg in args:
        if arg.startswith("-"):
            name, equals, value = arg.partition("=")
            if name.startswith("--"):
                name = name.replace("_", "-")
            out.append(name + equals + value)
            option, fresh = (name if name in repeatable else None), not equals
        else:
            if option is not None and not fresh:
                out.append(option)
            out.append(arg)
            fresh = False
    return out
