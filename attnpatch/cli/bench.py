"""`attnpatch bench kernels|model|overhead|vision`: what is faster, from which length on, and what the patch costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from attnpatch.bench.kernels import bench_kernels
from attnpatch.bench.model import LENGTHS, bench_model
from attnpatch.bench.overhead import LAYERS, bench_overhead
from attnpatch.bench.result import Result, check_output, write
from attnpatch.bench.routing import bench_routing
from attnpatch.bench.vision import SLICE, bench_vision
from attnpatch.cli.console import (
    JsonFlag,
    command_line,
    examples,
    progress_bar,
    show,
    show_json,
    user_errors,
)
from attnpatch.cli.lists import ListCommand
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.method import method_class

EXAMPLES = examples(
    "attnpatch bench overhead",
    "attnpatch bench model --lengths 2048 4096 --threads 1",
    "attnpatch bench kernels --lengths 4096 16384 --threads 1",
)
KERNEL_EXAMPLES = examples(
    "attnpatch bench kernels",
    "attnpatch bench kernels --lengths 1024 --windows 256 --repeats 1",
    "attnpatch bench kernels --threads 1 --output-dir results",
)
MODEL_EXAMPLES = examples(
    "attnpatch bench model",
    "attnpatch bench model --lengths 256 --layers 1 --repeats 1",
    "attnpatch bench model --config sandbox:text --method stochastic:window=64",
    "attnpatch bench model --config Qwen/Qwen3-8B --layers 2 --dtype bfloat16",
    "attnpatch bench model --method flux --omega 0.5 --lengths 256 --repeats 1",
)
OVERHEAD_EXAMPLES = examples("attnpatch bench overhead", "attnpatch bench overhead --layers 2 4 --repeats 5")
VISION_EXAMPLES = examples(
    "attnpatch bench vision --repeats 1 --tokens 4",
    "attnpatch bench vision --repeats 1 --tokens 4 --batches 1 4 --methods vhr",
)

KERNEL_WINDOWS = (1024, 2048)

app = typer.Typer(no_args_is_help=True, help="Time kernels, whole models and the patch itself beside stock attention.")

Lengths = Annotated[
    list[int],
    typer.Option(help="Prompt lengths in tokens.", metavar="N...", show_default="2048 to 32768, doubling", min=1),
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads; 1 is timed by CPU time, more by the wall. Default: all.", min=1)
]
Clock = Annotated[str, typer.Option(help="cpu, wall or auto (cpu for one thread).")]
Repeats = Annotated[int, typer.Option(help="Timed runs per case; the median counts.", min=1)]
OutputDir = Annotated[
    Path | None,
    typer.Option(help="Also write JSON, a Markdown table and a plot into this folder.", show_default=False),
]
PlotFlag = Annotated[bool, typer.Option(help="With --output-dir: draw the plot (needs matplotlib).")]


@app.command("kernels", cls=ListCommand, epilog=KERNEL_EXAMPLES)
@user_errors
def kernels(
    context: typer.Context,
    lengths: Lengths = LENGTHS,
    windows: Annotated[
        list[int], typer.Option(help="Window sizes in tokens.", metavar="N...", min=1)
    ] = KERNEL_WINDOWS,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    clock: Clock = "auto",
    repeats: Repeats = 5,
    output_dir: OutputDir = None,
    plot: PlotFlag = True,
    json: JsonFlag = False,
) -> None:
    """Time every sparse kernel against dense attention, by length and window."""

    def measure(progress: Callable[[int, int, str], None]) -> Result:
        return bench_kernels(
            lengths=tuple(lengths),
            windows=tuple(windows),
            dtype=dtype,
            device=device,
            threads_used=threads,
            clock=clock,
            repeats=repeats,
            progress=progress,
        )

    _run(measure, context, output_dir, plot, json)


@app.command("model", cls=ListCommand, epilog=MODEL_EXAMPLES)
@user_errors
def model(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(help="Take the shapes of this Hub id, folder or sandbox:text. Default: Qwen3-0.6B's."),
    ] = None,
    method: Annotated[str, typer.Option(help="What to time, such as sliding:window=512.")] = "sliding",
    omega: Annotated[
        float | None,
        typer.Option(
            help="With --method flux: this share of layers sparse, beside none and all of them.", min=0, max=1
        ),
    ] = None,
    sparse: Annotated[
        str | None, typer.Option(help="With --omega: the sparse arm, sliding if not given.", show_default=False)
    ] = None,
    lengths: Lengths = LENGTHS,
    layers: Annotated[int, typer.Option(help="Decoder layers to build; 0: all of the config's.", min=0)] = 2,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    clock: Clock = "auto",
    repeats: Repeats = 3,
    output_dir: OutputDir = None,
    plot: PlotFlag = True,
    json: JsonFlag = False,
) -> None:
    """Time prefill and decode of a whole model with random weights, stock against patched.

    With the defaults this takes about 15 minutes on one core, most of it for stock attention at 32,768 tokens.

    --method flux --omega 0.5 compares the time of a model with that share of sparse layers with what the times of no
    and of all sparse layers predict, and times the router of a layer; flux:local=1024 sets the arm's options.
    """
    timed, named = _timed(method, omega, sparse)

    def measure(progress: Callable[[int, int, str], None]) -> Result:
        return timed(
            config,
            **named,
            lengths=tuple(lengths),
            layers=layers or None,
            dtype=dtype,
            device=device,
            threads_used=threads,
            clock=clock,
            repeats=repeats,
            progress=progress,
        )

    _run(measure, context, output_dir, plot, json)


def _timed(method: str, omega: float | None, sparse: str | None) -> tuple[Callable[..., Result], dict[str, Any]]:
    """The benchmark that is meant, and what it is told about the method."""
    from attnpatch.evaluation.methods import from_text, parse_method

    if omega is None:
        if sparse is not None:
            raise AttnPatchError(f"--sparse {sparse} goes with --omega; write for example --method flux --omega 0.5.")
        spec = parse_method(method)
        return bench_model, {"method": spec.name, "method_options": spec.options}
    name, options = from_text(method)
    if method_class(name) is not method_class("flux"):
        raise AttnPatchError(f"--omega is the share of sparse layers of flux, not of {name}; write --method flux.")
    options |= {} if sparse is None else {"sparse": sparse}
    return bench_routing, {"omega": omega, "method_options": options}


@app.command("overhead", cls=ListCommand, epilog=OVERHEAD_EXAMPLES)
@user_errors
def overhead(
    context: typer.Context,
    layers: Annotated[
        list[int], typer.Option(help="Depths to time; the cost per layer is their slope.", metavar="N...", min=1)
    ] = LAYERS,
    method: Annotated[str, typer.Option(help="A method at its defaults; stock is the identity.")] = "stock",
    device: Device = "cpu",
    clock: Clock = "auto",
    repeats: Repeats = 40,
    output_dir: OutputDir = None,
    plot: PlotFlag = True,
    json: JsonFlag = False,
) -> None:
    """Time what being patched costs, in µs per layer, on one-token forwards of a tiny model."""

    def measure(progress: Callable[[int, int, str], None]) -> Result:
        return bench_overhead(
            layers=tuple(layers), method=method, device=device, clock=clock, repeats=repeats, progress=progress
        )

    _run(measure, context, output_dir, plot, json)


@app.command("vision", cls=ListCommand, epilog=VISION_EXAMPLES)
@user_errors
def vision(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help=f"sandbox:vision, or {SLICE}: a few layers of its shapes, random weights.")
    ] = "sandbox:vision",
    methods: Annotated[
        list[str] | None,
        typer.Option(help="Methods such as var:p=0.4. Default: all about images.", metavar="NAME:OPTIONS..."),
    ] = None,
    layers: Annotated[int, typer.Option(help=f"With {SLICE}: decoder layers.", min=1)] = 4,
    tokens: Annotated[int, typer.Option(help="Tokens to generate.", min=2)] = 32,
    batches: Annotated[
        list[int], typer.Option(help="Prompts that are generated for at once.", metavar="N...", min=1)
    ] = (1,),
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
    clock: Clock = "auto",
    repeats: Repeats = 5,
    output_dir: OutputDir = None,
    json: JsonFlag = False,
) -> None:
    """Time generation behind prompts with an image, stock against methods about images.

    --model llava-7b-slice takes minutes and 4 GB per 4 layers.
    """
    from attnpatch.evaluation.methods import parse_method

    parsed = None if methods is None else [parse_method(text) for text in methods]

    def measure(progress: Callable[[int, int, str], None]) -> Result:
        return bench_vision(
            model=model,
            methods=None if parsed is None else {spec.name: spec.options for spec in parsed},
            layers=layers,
            tokens=tokens,
            batches=batches,
            dtype=dtype,
            device=device,
            threads_used=threads,
            clock=clock,
            repeats=repeats,
            progress=progress,
        )

    _run(measure, context, output_dir, False, json)


def _run(
    measure: Callable[[Callable[[int, int, str], None]], Result],
    context: typer.Context,
    output_dir: Path | None,
    plot: bool,
    json: bool,
) -> None:
    """Measure with a progress bar, print, and write the files."""
    command = command_line(context)
    if output_dir is not None:
        check_output(output_dir, plot=plot)
    with progress_bar() as progress:
        result = measure(progress)
    if json:
        show_json(result.to_dict(command))
    else:
        show(result)
    if output_dir is not None:
        for file in write(result, output_dir, command=command, plot=plot):
            typer.echo(f"wrote {file}", err=True)
