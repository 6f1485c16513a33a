"""`attnpatch look MODEL IMAGE QUESTION`: a picture of where a model looks as it answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from attnpatch.cli.console import JsonFlag, TrustFlag, examples, show, show_json, user_errors
from attnpatch.patching.errors import AttnPatchError

if TYPE_CHECKING:
    from attnpatch.vision.looking import Looks

SANDBOX = "sandbox:vision"
EXAMPLES = examples(
    "attnpatch look sandbox:vision",
    'attnpatch look sandbox:vision --question "Is there a ring?" --method pai',
    'attnpatch look llava-hf/llava-1.5-7b-hf photo.jpg "What is on the table?"',
    "attnpatch look sandbox:vision --layer 2 --heads --token 1 --output heads.png",
    "attnpatch look sandbox:vision --method pai:alpha=0.5 --method devils",
)


@user_errors
def look_command(
    model: Annotated[
        str, typer.Argument(help=f"A vision-language model: Hub id, folder or {SANDBOX}.", show_default=False)
    ],
    image: Annotated[
        Path | None,
        typer.Argument(help=f"An image file. Default with {SANDBOX}: one of its own scenes.", show_default=False),
    ] = None,
    question: Annotated[
        str | None, typer.Argument(help="Asked about the image. Default: to describe it.", show_default=False)
    ] = None,
    asked: Annotated[
        str | None, typer.Option("--question", help="The question, without naming an image.", show_default=False)
    ] = None,
    scene: Annotated[int, typer.Option(help=f"With {SANDBOX} and no image: number of the scene.", min=0)] = 0,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="A method beside stock, such as pai:alpha=0.5; repeatable."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layers to show, such as 3, 8:16 or -1. Default: all.", show_default=False)
    ] = None,
    heads: Annotated[bool, typer.Option("--heads", help="One panel per head of the one --layer.")] = False,
    token: Annotated[int, typer.Option(help="Number of the answer's token that looks.", min=0)] = 0,
    output: Annotated[Path, typer.Option(help="The picture (PNG).", dir_okay=False)] = Path("look.png"),
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="Where the model goes, as in transformers.", show_default=False)
    ] = None,
    trust_remote_code: TrustFlag = False,
    json: JsonFlag = False,
) -> None:
    """Draw where a token of the answer looks in the image, by layer or head, stock against patched.

    Rings mark attention sinks: image tokens with massive activations, or outliers of attention where there are none.
    """
    from attnpatch.evaluation.methods import parse_method
    from attnpatch.vision import drawing, load_vision_model, looking

    if heads and layer is None:
        raise AttnPatchError("--heads shows the heads of one layer; say which with --layer.")
    if output.suffix.lower() != ".png":
        raise AttnPatchError(f"--output {str(output)!r} does not end in .png; the picture is a PNG.")
    specs = [parse_method(one) for one in method or []]
    picture, question = _asked(model, image, question or asked, scene)
    loaded, processor = load_vision_model(model, dtype, device_map, trust_remote_code=trust_remote_code)
    methods = [(spec.label, (spec.name, spec.options)) for spec in specs if spec.name != "stock"]
    looks = looking.look(loaded, processor, picture, question, methods=methods, layers=layer, token=token)
    if heads and len(looks.layers) != 1:
        raise AttnPatchError(f"--heads shows one layer, but --layer {layer} names {len(looks.layers)}.")
    drawing.draw(looks, output, heads=heads)
    if json:
        show_json(_facts(looks, output))
    else:
        show(_table(looks))
    typer.echo(f"wrote {output}", err=True)


def _asked(model: str, image: Path | None, question: str | None, scene: int) -> tuple[Any, str]:
    """The picture, and what to ask about it."""
    from attnpatch.vision.calibration import QUESTION
    from attnpatch.vision.pictures import opened

    if image is not None:
        return opened(image), question or QUESTION
    if model != SANDBOX:
        raise AttnPatchError(f"an image is needed to look with {model!r}; name the file behind the model.")
    from attnpatch.sandbox.vision import DESCRIBE, scenes

    return scenes("anti", 1, split="dev", start=scene)[0].image, question or DESCRIBE[0]


def _facts(looks: Looks, output: Path) -> dict[str, Any]:
    runs = [
        {
            "method": run.label,
            "answer": run.answer,
            "token": run.token,
            "image_share": {
                layer: round(float(one.sum(-1).mean()), 4)
                for layer, one in zip(looks.layers, run.attention, strict=True)
            },
            "marked_by": run.marked,
            "marked": {
                layer: one.nonzero().flatten().tolist() for layer, one in zip(looks.layers, run.sinks, strict=True)
            },
        }
        for run in looks.runs
    ]
    return {"question": looks.question, "step": looks.step, "file": str(output), "runs": runs}


def _table(looks: Looks) -> Table:
    table = Table(title=f"{looks.question} (token {looks.step} of the answer)", title_justify="left")
    for title in ("method", "answer up to there", "attention to the image", "marked tokens"):
        table.add_column(title)
    for run in looks.runs:
        shares = run.attention.sum(-1).mean(1)
        top = int(shares.argmax())
        image = f"{float(shares.mean()):.0%} on average, most in layer {looks.layers[top]} ({float(shares[top]):.0%})"
        table.add_row(run.label, run.answer or run.token, image, str(int(run.sinks.any(0).sum())))
    return table
