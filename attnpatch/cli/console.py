"""What all commands share: where output goes, how errors look, progress bars, examples under --help."""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

TRACEBACK = "ATTNPATCH_TRACEBACK"  # set it to see where an error came from
PIPED_WIDTH = 120  # columns where there is no terminal to ask

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]
TrustFlag = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run model code that the checkpoint brings along. Off by default.")
]


def console(*, stderr: bool = False) -> Console:
    """A console on the stream as it is now, as wide as the terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH)


def show(*things: Any) -> None:
    """Print tables and text for people."""
    screen = console()
    for thing in things:
        screen.print(thing)


def show_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def examples(*lines: str) -> str:
    """The end of a --help page; tests run these lines."""
    return "\n\n".join(("Examples:", *lines))


def user_errors(command: Callable) -> Callable:
    """End `command` with one line on stderr and exit code 2 when what it was given is wrong."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, torch.OutOfMemoryError) as error:
            if os.environ.get(TRACEBACK):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None

    return guarded


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr, gone at the end; yields the function that moves it. Silent without a terminal."""
    screen = console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def move(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield move


def command_line(context: typer.Context) -> str:
    """The command as it was given, in the order of its --help page; for result files."""
    words = ["attnpatch", *context.command_path.split()[1:]]
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value, option = context.params[parameter.name], parameter.opts[-1]
        if isinstance(value, (list, tuple)):
            words += [option, *map(str, value)]
        elif isinstance(value, bool):
            words.append(option if value else parameter.secondary_opts[-1])
        elif option.startswith("-"):
            words += [option, str(value)]
        else:
            words.append(str(value))
    return shlex.join(words)
