"""`accelerate launch -m attnpatch.training RECIPE`: what `attnpatch train` does, on several processes."""

import typer

from attnpatch.cli.train import train_command

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train_command)
    app(prog_name="python -m attnpatch.training")
