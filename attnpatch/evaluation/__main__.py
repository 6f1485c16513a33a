"""`accelerate launch -m attnpatch.evaluation ...`: what `attnpatch-eval run ...` does, on several processes."""

import sys

import typer

from attnpatch.cli.eval import RUN_EXAMPLES, run
from attnpatch.cli.lists import ListCommand

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=ListCommand, epilog=RUN_EXAMPLES)(run)
    arguments = sys.argv[1:]
    app(arguments[arguments[:1] == ["run"] :], prog_name="python -m attnpatch.evaluation")
