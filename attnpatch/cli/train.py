"""`attnpatch train RECIPE`: train a method's parameters, or an adapter, from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from attnpatch.cli.console import console, examples, show, user_errors
from attnpatch.training.recipe import Recipe, load_recipe, parse_overrides

EXAMPLES = examples(
    "attnpatch train flux/sandbox --check",
    "attnpatch train flux/sandbox --check --set router.pool=32",
    "attnpatch train lora/sandbox-sliding --check --steps 1",
)


@user_errors
def train_command(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (method/model), or a YAML file.")],
    check: Annotated[bool, typer.Option("--check", help="Only say whether the recipe is right.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value: key=value, as often as needed.", show_default=False),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; without it a stopped run goes on where it was.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="Stop after this many steps; the next call goes on.", min=1, show_default=False)
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="Measure the result beside the recipe's baselines.")] = True,
) -> None:
    """Train what a recipe says: routers of flux, a LoRA adapter, or both; then measure it.

    On several GPUs: accelerate launch --num_processes 8 -m attnpatch.training RECIPE
    """
    chosen = load_recipe(recipe, parse_overrides(set_))
    if check:
        show(_facts(recipe, chosen))
        return
    from attnpatch.training.train import train

    screen = console(stderr=True)
    done = train(
        chosen, restart=restart, progress=screen.is_terminal, steps=steps, evaluate=evaluate, name=_name(recipe)
    )
    if not done.main:
        return
    if not done.finished:
        typer.echo(f"step {done.step} of {chosen.training.max_steps}; the same command goes on.", err=True)
        return
    if done.evaluation:
        from attnpatch.training.measure import as_table

        header, lines = as_table(done.evaluation)
        table = Table(title="score (share of sparse layers)")
        for column in header:
            table.add_column(column, justify="left" if column == "what" else "right")
        for line in lines:
            table.add_row(*line)
        show(table)
    typer.echo(f"wrote {done.folder}", err=True)


def _name(recipe: str) -> str:
    """How cards call the recipe: without the folders of this machine."""
    path = Path(recipe)
    return f"{path.parent.name}/{path.name}" if path.parent.name else recipe


def _facts(name: str, recipe: Recipe) -> Table | Text:
    settings = recipe.training
    trained = [part for part in ("router", "lora") if getattr(recipe, part) is not None]
    targets = ", ".join(
        f"{source.task}" + ("" if source.omega is None else f" Ω {source.omega:g}") for source in recipe.data.sources
    )
    table = Table(title=f"{name} is right", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    options = ", ".join(f"{key}={value}" for key, value in recipe.method.options.items())
    for key, value in {
        "model": f"{recipe.model} ({recipe.dtype})",
        "method": f"{recipe.method.name}({options})",
        "trains": " and ".join(trained),
        "tasks": targets,
        "steps": f"{settings.max_steps} of {recipe.data.packs_per_step} x {recipe.data.pack_tokens:,} tokens",
        "into": settings.output_dir,
    }.items():
        table.add_row(key, value)
    return table
