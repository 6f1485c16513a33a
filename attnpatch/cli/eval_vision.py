"""The options of `attnpatch-eval run` for tasks with pictures."""

from __future__ import annotations

from typing import Annotated

import typer

FILES = ("data_dir", "image_root", "pope", "coco", "mme", "amber", "chair_synonyms", "chair_images")
SETTINGS = ("answer_tokens", "caption_tokens", "caption_prompt", "scenes", "on_bad")


def picture_options(
    image_root: Annotated[str | None, typer.Option(help="Pictures of POPE, CHAIR, MME and AMBER.")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder with pope/, coco/, mme/, amber/ and images/, for all of these.")
    ] = None,
    pope: Annotated[str | None, typer.Option(help="POPE: folder with the files of the three splits.")] = None,
    coco: Annotated[str | None, typer.Option(help="CHAIR: folder with instances_* and captions_*2014.json.")] = None,
    mme: Annotated[str | None, typer.Option(help="MME: folder with <subtask>.txt, or a file of JSON rows.")] = None,
    amber: Annotated[str | None, typer.Option(help="AMBER: its data folder.")] = None,
    chair_synonyms: Annotated[str | None, typer.Option(help="CHAIR's official table, to compare with papers.")] = None,
    chair_images: Annotated[str | None, typer.Option(help="CHAIR: pictures to describe, one id a line.")] = None,
    answer_tokens: Annotated[int | None, typer.Option(help="New tokens of an answer at most.")] = None,
    caption_tokens: Annotated[int | None, typer.Option(help="New tokens of a caption at most.")] = None,
    caption_prompt: Annotated[str | None, typer.Option(help="What asks for CHAIR's captions.")] = None,
    scenes: Annotated[str | None, typer.Option(help="Scenes of the vision sandbox: dev or test.")] = None,
    on_bad: Annotated[
        str | None, typer.Option(help="An annotation or picture that cannot be used: stop, or skip and count it.")
    ] = None,
) -> None:
    """Only its signature is used: `run` borrows it."""
