"""`attnpatch-eval report|compare|majority`: what is done with the results of a run."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from attnpatch.cli.console import examples
from attnpatch.cli.ending import exit_codes, say

REPORT_EXAMPLES = examples(
    "attnpatch-eval report attnpatch-results",
    "attnpatch-eval report attnpatch-results --format csv",
    "attnpatch-eval report attnpatch-results --format html",
)
COMPARE_EXAMPLES = examples("attnpatch-eval compare attnpatch-results attnpatch-results")
MAJORITY_EXAMPLES = examples(
    "attnpatch-eval majority attnpatch-results --router router --output majority.yaml",
    "attnpatch-eval run --suite majority.yaml --output-path attnpatch-results",
)


class Format(str, Enum):
    """How `report` shows results."""

    md = "md"
    csv = "csv"
    json = "json"
    html = "html"
    plot = "plot"


def report(
    folder: Annotated[Path, typer.Argument(help="The --output-path of a run, or its results.json.")],
    format: Annotated[Format, typer.Option("--format", help="md, csv, json, html or plot.")] = Format.md,
) -> None:
    """Show the results of a run again; `html` and `plot` write its page and its pictures again, beside it."""
    with exit_codes():
        import json

        from attnpatch.evaluation.results import Results

        results = Results.load(folder)
        beside = folder if folder.is_dir() else folder.parent
        if format is Format.plot:
            for path in results.plot(beside / "plots"):
                say(str(path))
        elif format is Format.html:
            from attnpatch.evaluation.page import write_page

            say(str(write_page(results, beside)))
        elif format is Format.csv:
            say(results.to_csv())
        elif format is Format.json:
            say(json.dumps(results.to_dict(), indent=1, allow_nan=False))
        else:
            say(results.to_markdown())


def compare(
    first: Annotated[Path, typer.Argument(help="Folder or results.json of one run.")],
    second: Annotated[Path, typer.Argument(help="Folder or results.json of the other.")],
) -> None:
    """Compare two runs row by row, paired by document where both scored the same ones."""
    with exit_codes():
        from attnpatch.evaluation.compare import compare_markdown
        from attnpatch.evaluation.results import Results

        say(compare_markdown(Results.load(first), Results.load(second)))


def majority(
    folder: Annotated[Path, typer.Argument(help="The --output-path of a run with a router, or its results.json.")],
    router: Annotated[str | None, typer.Option(help="The router's label, where the run has several.")] = None,
    output: Annotated[Path | None, typer.Option(help="Default: majority.yaml beside the results.")] = None,
) -> None:
    """Write the suite of a run with two fixed plans more: what its router chose most often, overall and per task.

    Run that suite into the same --output-path, with the same options for the model: only the new cells are computed.
    """
    with exit_codes():
        from attnpatch.evaluation.majority import majority_suite, write_suite
        from attnpatch.evaluation.results import Results

        suite = majority_suite(Results.load(folder), router)
        target = output or (folder if folder.is_dir() else folder.parent) / "majority.yaml"
        write_suite(suite, target)
        overall, per_task = suite["methods"][-2:]
        say(f"all tasks: {overall['options']['plan']}")
        for task, own in per_task["per_task"].items():
            say(f"{task}: {own['plan']}")
        typer.echo(f"wrote {target}", err=True)
