"""`attnpatch sandbox train|card|path`: the small models that ship with the package."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from attnpatch import sandbox
from attnpatch.cli.console import JsonFlag, console, examples, show, user_errors
from attnpatch.patching.errors import AttnPatchError

EXAMPLES = examples("attnpatch sandbox path text", "attnpatch sandbox card vision")
PATH_EXAMPLES = examples("attnpatch sandbox path text")
CARD_EXAMPLES = examples("attnpatch sandbox card text", "attnpatch sandbox card vision --json")
TRAIN_EXAMPLES = examples(
    "attnpatch sandbox train text --output-dir my-text",
    "attnpatch sandbox train vision --output-dir try --steps 1",
)

app = typer.Typer(no_args_is_help=True, help="The small trained models that ship with the package.")
Name = Annotated[str, typer.Argument(help=f"Which model: {', '.join(sandbox.MODELS)}.", show_default=False)]


@app.command("path", epilog=PATH_EXAMPLES)
@user_errors
def path(name: Name) -> None:
    """Print the folder of a model; `from_pretrained` loads it."""
    typer.echo(sandbox.path(name))


@app.command("card", epilog=CARD_EXAMPLES)
@user_errors
def card(
    name: Name,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Measure again with this many rows or scenes per cell, and write the card.", min=1, show_default=False
        ),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder of the model; default: the packaged one.", show_default=False)
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show a model's card: how it was trained and what it can do."""
    folder = output_dir or sandbox.path(name)
    if rows is not None:
        import_module(f"attnpatch.sandbox.{name}.card").write_card(folder, rows)
    file = folder / ("card.json" if json else "README.md")
    if not file.is_file():
        raise AttnPatchError(f"{file} is missing; make it with `attnpatch sandbox card {name} --rows 100`.")
    if json:
        typer.echo(file.read_text())
    else:
        show(Markdown(file.read_text().partition("---\n")[2].partition("---\n")[2]))


@app.command("train", epilog=TRAIN_EXAMPLES)
@user_errors
def train(
    name: Name,
    output_dir: Annotated[
        Path | None, typer.Option(help="Where to train; default: the packaged folder.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, rows and their order.", min=0)] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps in all; default: the recipe's.", show_default=False)] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many minutes; the next call goes on.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in the folder.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a packaged model that is complete.")] = False,
) -> None:
    """Train a model from scratch, seeded and resumable (up to 45 minutes on two cores)."""
    packaged = sandbox.path(name)
    folder = output_dir or packaged
    finished = (folder / "model.safetensors").exists() and not (folder / "checkpoint.pt").exists()
    if finished and not overwrite:
        raise AttnPatchError(
            f"{folder} holds a trained model; give another --output-dir, or --overwrite to replace it."
        )
    start = import_module(f"attnpatch.sandbox.{name}.train").train
    bar = console().is_terminal
    done = start(folder, seed=seed, steps=steps, minutes=minutes, resume=resume, progress=bar)
    state = "finished" if done.finished else "stopped, run the same command to go on"
    typer.echo(f"step {done.step}, {state}: {done.folder}")
