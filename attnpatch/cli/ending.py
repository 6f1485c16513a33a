"""How the commands of `attnpatch-eval` speak and end: one line on stderr, and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from attnpatch.patching.errors import AttnPatchError


@contextmanager
def exit_codes() -> Iterator[None]:
    """Errors of the user as one line on stderr, with the exit code that goes with them."""
    from attnpatch.evaluation.errors import LoadingError, LostProcessError

    try:
        yield
    except KeyboardInterrupt:
        error_line("interrupted; finished cells are kept, the same command goes on from them")
        raise typer.Exit(130) from None
    except (LoadingError, LostProcessError, ImportError) as error:
        error_line(str(error))
        raise typer.Exit(1) from None
    except AttnPatchError as error:
        error_line(str(error))
        raise typer.Exit(2) from None


def error_line(message: str) -> None:
    Console(stderr=True).print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    typer.echo(text.rstrip("\n"))
