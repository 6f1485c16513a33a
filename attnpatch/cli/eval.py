"""`attnpatch-eval`: what methods do to a model's accuracy, speed and memory."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from attnpatch.cli.console import JsonFlag, examples
from attnpatch.cli.ending import error_line, exit_codes, say
from attnpatch.cli.eval_results import (
    COMPARE_EXAMPLES,
    MAJORITY_EXAMPLES,
    REPORT_EXAMPLES,
    compare,
    majority,
    report,
)
from attnpatch.cli.eval_vision import picture_options
from attnpatch.cli.lists import ListCommand
from attnpatch.cli.requested import like, requested

DEFAULT_OUTPUT = Path("attnpatch-results")
RUN_EXAMPLES = examples(
    "attnpatch-eval run",
    "attnpatch-eval run --suite quick",
    "attnpatch-eval run --methods sliding:window=64 stochastic:window=64 --tasks needle copy --lengths 256 --limit 8",
    "attnpatch-eval run --methods sliding stochastic --budgets length/8 --tasks needle --seeds 0 1 2 --dry-run",
)
CHECK_EXAMPLES = examples(
    "attnpatch-eval check quick",
    "attnpatch-eval check --methods sliding:window=64 --tasks needle copy --lengths 256",
    "attnpatch-eval check --suite quick --tasks needle --json",
)
LIST_EXAMPLES = examples("attnpatch-eval list methods", "attnpatch-eval list tasks", "attnpatch-eval list suites")

app = typer.Typer(
    name="attnpatch-eval",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=RUN_EXAMPLES,
)


class Kind(str, Enum):
    """What `list` lists."""

    methods = "methods"
    tasks = "tasks"
    suites = "suites"


@app.callback()
def main() -> None:
    """Measure what attention methods do to a model's accuracy, speed and memory."""


@app.command(cls=ListCommand, epilog=RUN_EXAMPLES)
@like(picture_options)
def run(
    suite: Annotated[
        str | None, typer.Option(help="A suite by name or .yaml path; options below override it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder, sandbox:text or sandbox:vision.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option(help="Methods: NAME or NAME:option=value,option=value.", metavar="METHOD...")
    ] = None,
    budgets: Annotated[
        list[str] | None,
        typer.Option(help="Mean visible keys per query to match windows to: 64, or length/8.", metavar="KEYS..."),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Tasks; see `list tasks`. lm-eval's by name, or lm_eval:NAME.", metavar="TASK..."),
    ] = None,
    lengths: Annotated[list[str] | None, typer.Option(help="Tokens per document: 512, 4k.", metavar="N...")] = None,
    limit: Annotated[int | None, typer.Option(help="Documents per task.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="Seeds of random methods.", metavar="SEED...")] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Documents per forward, or auto: as many as fit, halved if memory runs out.")
    ] = None,
    generation_batch_size: Annotated[
        str | None, typer.Option(help="Prompts per generate, or auto; 1 if not given.")
    ] = None,
    data_seed: Annotated[int | None, typer.Option(help="Seed of the documents.")] = None,
    speed_rounds: Annotated[
        int | None, typer.Option(help="Times each method is timed in turn with the others; 0: not at all.")
    ] = None,
    depths: Annotated[
        list[float] | None, typer.Option(help="Depths of the needle in percent: 0 25 50 75 100.", metavar="PERCENT...")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Put prompts of ruler_* and lm-eval tasks into it.")
    ] = False,
    include_path: Annotated[
        list[str] | None, typer.Option(help="Folders with lm-eval task files of your own.", metavar="FOLDER...")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="lm-eval: examples in the prompt.")] = None,
    system_instruction: Annotated[str | None, typer.Option(help="lm-eval: system text of every prompt.")] = None,
    gen_kwargs: Annotated[
        str | None, typer.Option(help="lm-eval: generation arguments, temperature=0,max_gen_toks=32.")
    ] = None,
    metadata: Annotated[str | None, typer.Option(help="lm-eval: JSON for tasks that make their own data.")] = None,
    loglikelihood: Annotated[
        str | None, typer.Option(help="lm-eval: scored continuations decided on context, whole or auto.")
    ] = None,
    text_file: Annotated[str | None, typer.Option(help="Text for the perplexity tasks and RULER's haystack.")] = None,
    haystack: Annotated[str | None, typer.Option(help="RULER's haystack: a text file or Hub data set.")] = None,
    squad: Annotated[str | None, typer.Option(help="SQuAD for ruler_qa_squad: JSON file or Hub data set.")] = None,
    hotpot: Annotated[
        str | None, typer.Option(help="HotpotQA for ruler_qa_hotpot: JSON file or Hub data set.")
    ] = None,
    word_list: Annotated[str | None, typer.Option(help="RULER's words, one a line.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (float32 on a CPU), float32, bfloat16 or float16.")] = "auto",
    device_map: Annotated[str | None, typer.Option(help="As in transformers, for example auto.")] = None,
    attn_implementation: Annotated[str | None, typer.Option(help="sdpa or eager.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    output_path: Annotated[Path, typer.Option(help="Folder for cells, tables and plots.")] = DEFAULT_OUTPUT,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Compute finished cells again.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if any cell is skipped or failed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells, load no weights.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
    **pictures: Any,
) -> None:
    """Run an evaluation; without options the default suite on the sandbox model.

    Cells that are in --output-path already are not computed again. --methods without --budgets or --suite runs the
    methods as configured; with budgets their windows are searched so that all see the same number of keys.

    lm-eval's tasks run by their names, on documents as long as they are: --tasks hellaswag,longbench --limit 100. The
    prefix lm_eval: tells them from ours of the same name.

    Pictures: attnpatch-eval run --model llava-hf/llava-1.5-7b-hf --methods var vhr --tasks pope chair mme amber
    --limit 500 --data-dir DIR, where --limit counts questions per split, subtask or type, and captions.

    A checkpoint: attnpatch-eval run --model Qwen/Qwen3-8B --dtype bfloat16 --device-map auto --lengths 4k 8k --methods
    sliding stochastic --budgets length/8 --tasks needle mqar perplexity

    Exit codes: 0 something was measured; 1 nothing was, or the model did not come back bit for bit, or --strict and a
    cell is not ok; 2 wrong use; 130 interrupted, and the same command goes on from there.

    On several GPUs, one process each, the documents of every cell are split over them, cells of lm-eval's tasks are
    dealt out whole, and the numbers stay the same:
    accelerate launch -m attnpatch.evaluation --suite quick
    """
    given = dict(locals())
    given |= given.pop("pictures")
    from attnpatch.evaluation.processes import joined

    with exit_codes(), joined() as processes:
        prepared = processes.main_first(lambda: _prepared(given, processes))
        if dry_run:
            if processes.main:
                _show_plan(prepared)
            raise typer.Exit(0)
        _run(prepared, processes, output_path, overwrite, strict, quiet)


def _prepared(given: dict[str, Any], processes):
    from attnpatch.evaluation.errors import UsageError
    from attnpatch.evaluation.evaluate import prepare
    from attnpatch.evaluation.loading import CheckpointSource

    if given["device_map"] is not None and not processes.alone:
        raise UsageError(
            f"--device-map spreads one model over the GPUs that {processes.count} processes take one each. Leave it "
            "out, or run without a launcher."
        )
    asked = requested(given)
    return prepare(asked.suite, CheckpointSource(asked.model), given["output_path"], asked.files)


def _run(prepared, processes, output_path: Path, overwrite: bool, strict: bool, quiet: bool) -> None:
    from attnpatch.evaluation.progress import reporter
    from attnpatch.evaluation.tables import status_line

    quiet = quiet or not processes.main
    if quiet or not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()
    results = prepared.run(resume=not overwrite, progress=reporter(quiet), processes=processes)
    if not processes.main:
        raise typer.Exit(results.exit_code(strict))
    _show_headline(results)
    written = results.save(output_path)
    log = Console(stderr=True, quiet=quiet)
    for line in (
        *results.problems(),
        results.run.get("plots"),
        f"{status_line(results)}; {results.run['seconds']:.0f} s; wrote {', '.join(map(str, written))}",
    ):
        if line:
            log.print(line, markup=False, highlight=False, soft_wrap=True)
    if results.unpatch_failed:
        error_line(
            "unpatch_failed: after the run the stock model gave other logits than before; do not trust these cells"
        )
    raise typer.Exit(results.exit_code(strict))


def _show_headline(results) -> None:
    from attnpatch.evaluation.tables import headline_markdown, notes, rich_tables

    console = Console()
    if not console.is_terminal:
        say(headline_markdown(results))
        return
    for table in rich_tables(results, console.width):
        console.print(table)
    for note in notes(results):
        console.print(note, style="dim", highlight=False)


def _show_plan(prepared) -> None:
    done = 0
    for cell in prepared.cells:
        exists = prepared.store is not None and prepared.store.read(cell.key) is not None
        done += exists
        state = f"skip: {cell.skip.reason}" if cell.skip else "done" if exists else "to run"
        window = (
            ""
            if cell.method.match is None or cell.config is None
            else f" {cell.method.match}={cell.config[cell.method.match]}"
        )
        say(f"{cell.key[:16]}  {state:7}  {cell.label}{window}  {len(cell.documents)} documents")
    say(f"{len(prepared.cells)} cells, {done} done")


@app.command(cls=ListCommand, epilog=CHECK_EXAMPLES)
@like(run)
def check(
    suite_name: Annotated[
        str | None, typer.Argument(metavar="[SUITE]", help="A suite by name or .yaml path, as --suite.")
    ] = None,
    json: JsonFlag = False,
    **options: Any,
) -> None:
    """Say what a run would need, what is missing, and how to get it. Takes a suite, or the arguments of `run`.

    Reads no weights and fetches nothing. Exit codes: 0 all is here; 1 something is missing; 2 wrong use.
    """
    with exit_codes():
        from attnpatch.cli.check import check_request

        fine = check_request(requested({**options, "suite": suite_name or options["suite"]}), json)
        raise typer.Exit(0 if fine else 1)


@app.command("list", epilog=LIST_EXAMPLES)
def list_(kind: Annotated[Kind, typer.Argument(help="methods, tasks or suites")]) -> None:
    """List methods, tasks or suites."""
    with exit_codes():
        if kind is Kind.methods:
            from attnpatch.patching.method import methods

            entries = {name: f"{cls.summary} [{cls.paper}]" for name, cls in methods().items()}
        elif kind is Kind.tasks:
            from attnpatch.evaluation.tasks import GROUPS, known

            entries = {
                name: "; ".join(f"{source}: {text}" for source, text in sources.items())
                for name, sources in known().items()
            }
            entries |= {name: text for name, (_, text) in GROUPS.items()}
            entries["lm_eval:NAME"] = (
                "lm-eval's tasks, groups and tags, also by the bare name; attnpatch-lm-eval ls tasks"
            )
        else:
            from attnpatch.evaluation.suites import load_suite, suite_names

            entries = {name: load_suite(name).get("description", "") for name in suite_names()}
        width = max(map(len, entries), default=0)
        for name, text in sorted(entries.items()):
            say(f"{name:{width}}  {text}")


for _command, _examples in (
    (report, REPORT_EXAMPLES),
    (compare, COMPARE_EXAMPLES),
    (majority, MAJORITY_EXAMPLES),
):
    app.command(epilog=_examples)(_command)


if __name__ == "__main__":
    sys.exit(app())
