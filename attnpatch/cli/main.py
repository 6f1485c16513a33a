"""The program `attnpatch`: its commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

import attnpatch
from attnpatch.cli import bench, calibrate, data, env, inspect_model, list_methods, look, sandbox, show, train
from attnpatch.cli.console import examples

SETTINGS = {"help_option_names": ["-h", "--help"]}
EXAMPLES = examples(
    "attnpatch list", "attnpatch show sliding", "attnpatch inspect sandbox:text", "attnpatch --version"
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    epilog=EXAMPLES,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"attnpatch {attnpatch.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Change how a pretrained Hugging Face model attends, and measure what that did.

    Evaluation has a program of its own: `attnpatch-eval --help`.
    """


app.command("list", epilog=list_methods.EXAMPLES)(list_methods.list_methods)
app.command("show", epilog=show.EXAMPLES)(show.show_method)
app.command("inspect", epilog=inspect_model.EXAMPLES)(inspect_model.inspect_command)
app.command("env", epilog=env.EXAMPLES)(env.env)
app.command("calibrate", epilog=calibrate.EXAMPLES)(calibrate.calibrate_command)
app.command("look", epilog=look.EXAMPLES)(look.look_command)
app.command("train", epilog=train.EXAMPLES)(train.train_command)
app.add_typer(data.app, name="data", epilog=data.EXAMPLES)
app.add_typer(sandbox.app, name="sandbox", epilog=sandbox.EXAMPLES)
app.add_typer(bench.app, name="bench", epilog=bench.EXAMPLES)
