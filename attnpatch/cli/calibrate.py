"""`attnpatch calibrate METHOD MODEL`: a vision method's options for one model, found on a handful of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from attnpatch.cli.console import JsonFlag, TrustFlag, command_line, examples, show, show_json, user_errors
from attnpatch.patching.errors import AttnPatchError

if TYPE_CHECKING:
    from attnpatch.methods.vision.profile import Profile

SANDBOX = "sandbox:vision"
EXAMPLES = examples(
    "attnpatch calibrate gift sandbox:vision --output gift.json",
    "attnpatch calibrate vhr sandbox:vision --limit 4",
    "attnpatch calibrate var llava-hf/llava-1.5-7b-hf --images photos --limit 8",
)


@user_errors
def calibrate_command(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="What to calibrate: var, vhr or gift.", show_default=False)],
    model: Annotated[
        str,
        typer.Argument(help=f"A vision-language model: Hub id, folder or {SANDBOX}.", show_default=False),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder with images, or one image. Default with {SANDBOX}: its own scenes.", show_default=False
        ),
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(help="Asked about the images in turn; repeatable. Default: to describe it.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many images at most.", min=1)] = 16,
    output: Annotated[
        Path | None, typer.Option(help="Keep the profile in this file.", show_default=False, dir_okay=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="Where the model goes, as in transformers.", show_default=False)
    ] = None,
    trust_remote_code: TrustFlag = False,
    json: JsonFlag = False,
) -> None:
    """Measure a vision method's options on a model; apply(model, METHOD, profile=FILE) takes them.

    var: the hidden dimensions of attention sinks. vhr: the layers whose heads look most at the image. gift: the layer
    where attention to the image jumps.
    """
    from attnpatch.vision import load_vision_model
    from attnpatch.vision.calibration import calibrate, calibrated_class

    calibrated_class(method)
    pictures, questions = _asked(model, images, limit, question or [])
    loaded, processor = load_vision_model(model, dtype, device_map, trust_remote_code=trust_remote_code)
    profile = calibrate(loaded, processor, method, pictures, questions, command=command_line(context))
    if output is not None:
        profile.write(output)
        typer.echo(f"wrote {output}", err=True)
    if json:
        show_json(profile.model_dump(mode="json"))
    else:
        show(_table(profile))
        typer.echo(_usage(profile, output))  # whole lines, however narrow the terminal, so that they can be copied


def _asked(model: str, images: Path | None, limit: int, questions: list[str]) -> tuple[Sequence[Any], list[str]]:
    """The images, and what to ask about them."""
    from attnpatch.vision.calibration import image_files

    if images is not None:
        return image_files(images, limit), questions
    if model != SANDBOX:
        raise AttnPatchError(f"images are needed to calibrate {model!r}; pass --images FOLDER with a handful of them.")
    from attnpatch.sandbox.vision import DESCRIBE, scenes

    half = (limit + 1) // 2  # both kinds of scenes
    shown = scenes("biased", half, split="dev") + scenes("anti", limit - half, split="dev")
    return [scene.image for scene in shown], questions or [DESCRIBE[0]]


def _table(profile: Profile) -> Table:
    table = Table(title=f"{profile.method} on {profile.model['model_type']}", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in profile.options.items():
        table.add_row(name, str(value))
    for name, value in profile.details.items():
        name = f"{name} measured" if name in profile.options else name  # vhr and gift choose some of them
        table.add_row(Text(name, style="dim"), Text(_short(value), style="dim"))
    return table


def _short(value: Any) -> str:
    return ", ".join(f"{key}: {one}" for key, one in value.items()) if isinstance(value, dict) else str(value)


def _usage(profile: Profile, output: Path | None) -> str:
    if output is None:
        given = ", ".join(f"{name}={value!r}" for name, value in profile.options.items())
        return f'attnpatch.apply(model, "{profile.method}", {given})\n--output FILE keeps it as a profile.'
    return f'attnpatch.apply(model, "{profile.method}", profile="{output}")'
