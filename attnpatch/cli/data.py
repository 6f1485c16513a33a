"""`attnpatch data preview`: what a recipe trains on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from attnpatch.cli.console import JsonFlag, examples, progress_bar, show, show_json, user_errors
from attnpatch.evaluation.loading import CheckpointSource, ModelRequest
from attnpatch.training.mixture import Mixture
from attnpatch.training.preview import Preview, preview
from attnpatch.training.recipe import load_recipe, parse_overrides

EXAMPLES = examples("attnpatch data preview flux/sandbox")
PREVIEW_EXAMPLES = examples(
    "attnpatch data preview flux/sandbox",
    "attnpatch data preview flux/sandbox --step 3 --set data.seed=1",
    "attnpatch data preview flux/sandbox --json",
)

app = typer.Typer(no_args_is_help=True, help="The data of a recipe.")


@app.callback()
def data() -> None:
    """The data of a recipe."""


@app.command("preview", epilog=PREVIEW_EXAMPLES)
@user_errors
def preview_command(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (method/model), or a YAML file.")],
    step: Annotated[int, typer.Option(help="Which optimiser step.", min=0)] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value: key=value, as often as needed.", show_default=False),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show the packs of one step, the mix of tasks, and the text of the first sample with its answer marked."""
    chosen = load_recipe(recipe, parse_overrides(set_))
    request = ModelRequest(chosen.model, chosen.revision, trust_remote_code=chosen.trust_remote_code)
    tokenizer = CheckpointSource(request).tokenizer
    with progress_bar() as move:
        found = preview(Mixture(chosen, tokenizer, move), tokenizer, step)
    if json:
        show_json(asdict(found))
        return
    show(*_tables(found), _first(found))


def _tables(found: Preview) -> list[Table]:
    packs = _table(f"Step {found.step}", found.samples)
    mix = _table("Mix of this step", found.mix)
    sources = _table("Sources", [{key: source[key] for key in _telling(found.sources)} for source in found.sources])
    sources.caption = "; ".join(dict.fromkeys(source["rendering"] for source in found.sources))
    return [packs, mix, sources]


def _telling(sources: list[dict[str, Any]]) -> list[str]:
    """The facts that are not nothing for every source; how rows are rendered stands below the table."""
    return [key for key in sources[0] if key != "rendering" and any(source[key] for source in sources)]


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    for name in rows[0]:
        numbers = any(isinstance(row[name], (int, float)) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(
                "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
                for value in row.values()
            )
        )
    return table


def _first(found: Preview) -> Text:
    first = found.first
    text = Text(f"{first['id']}, the answer between » and «:\n")
    return text.append(first["prompt"], style="dim").append(" »").append(first["answer"], style="bold").append("«")
