"""carve: look where the question, more than any question, makes a model look, and ask again about that part.

Source: "Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning" (CARVE), arXiv 2509.06461. The attention
of the answer under the real question is divided by that under a generic prompt; no weight or attention is changed.
Part of the gain is that the model gets more pixels of the relevant part: compare at an equal number of image tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from attnpatch.methods.vision.depth import Layers, at_depth
from attnpatch.patching.configured import Config, Configured
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.layers import select_layers
from attnpatch.patching.sites import inspect_model
from attnpatch.vision.capture import captured
from attnpatch.vision.maps import grid_map, on_picture, region_of, tiles_of
from attnpatch.vision.pictures import opened
from attnpatch.vision.prompts import own_processor, prompt_inputs
from attnpatch.vision.refine import box_around, largest_parts, refined, top_mask

GENERAL = "Write a general description of the image."
SUFFIX = "Answer the question using a single word or phrase."
LAYERS = range(20, 26)  # in the paper's models, which have 28 to 40


class CarveConfig(Config):
    layers: Layers | None = Field(
        None,
        description="layers whose attention is read, such as '20:26' (end excluded) or indices. Default: 20..25, on a "
        "model with fewer layers the same share of its depth",
    )
    lam: float = Field(1e-8, gt=0, description="added to the attention under the generic prompt before dividing by it")
    top_fraction: float = Field(0.2, gt=0, le=1, description="share of the picture's pixels that is kept")
    keep: int | None = Field(3, ge=1, description="connected parts that are kept, the strongest ones. None: all")
    steps: Literal["all", "first", "last"] = Field(
        "all", description="tokens of the answer whose attention counts: all with weights 1, 2, 3..., or one"
    )
    images: Literal["refined", "both"] = Field(
        "refined", description="what is shown when asking again: the part alone, or the picture and the part"
    )
    max_new_tokens: int = Field(32, ge=1, description="tokens per answer")
    general: str = Field(GENERAL, description="the generic prompt")
    suffix: str = Field(SUFFIX, description="added to the question and to the generic prompt, on a line of its own")
    most: float = Field(
        2.0, ge=1, description="longest side of the magnified part, as a multiple of the picture's longer side"
    )
    capture_only: bool = Field(False, description="stop when the map is known: the answer is the first one")


@dataclass(frozen=True)
class Carved:
    """What came of it.

    answer: after looking again; first_answer: of the whole picture; map: the contrast `[gh, gw]`, weighted over steps
    and summed over layers; box: left, top, right, bottom of the part in pixels; picture: what the model looked at
    (PIL), the given one where the part is all of it; scores: the contrast of each step `[steps, gh, gw]`.
    """

    answer: str
    first_answer: str
    map: torch.Tensor
    box: tuple[int, int, int, int]
    picture: Any
    scores: torch.Tensor


class _Carve(Configured):
    kind, name, Config = "function", "carve", CarveConfig
    help = "See help(attnpatch.vision.carve)."


def carve(
    model: torch.nn.Module,
    processor: Any,
    image: Any,
    question: str,
    *,
    config: CarveConfig | None = None,
    **options: Any,
) -> Carved:
    """Answer `question` about the part of a picture that matters for it.

    Args:
        model: a vision-language model, patched or not.
        processor: its own.
        image: a PIL image or a file.
        question: about the picture.
        config: or options one by one; each field of `CarveConfig` says what it does.
        options: see config.

    Raises:
        AttnPatchError: an unknown option or a value out of range, a picture that cannot be read, an empty question,
            the processor of another model.
        UnsupportedModelError: a model whose image tokens cannot be placed on the picture, or a layer that it lacks.
    """
    settings = _Carve(config, **options).config
    if not question.strip():
        raise AttnPatchError("question is empty; ask something about the picture.")
    picture = opened(image)
    layers = _layers(settings, inspect_model(model).layers)
    asked = _with_suffix(question, settings.suffix)
    first, ours, inputs = _answer(model, processor, picture, asked, layers, settings)
    tiles = tiles_of(model, processor, inputs, picture.size)
    _, general, _ = _answer(
        model, processor, picture, _with_suffix(settings.general, settings.suffix), layers, settings
    )
    scores = contrast(ours, general, settings.lam)  # [steps, tokens]
    grids = grid_map(scores, tiles)
    total = weighted(grids, settings.steps)
    pixels = on_picture(total, region_of(tiles), picture.size, outside=-torch.inf).numpy()
    mask = largest_parts(top_mask(pixels, settings.top_fraction), pixels, settings.keep)
    box = box_around(mask)
    if settings.capture_only or box == (0, 0, *picture.size):
        return Carved(first, first, total, box, picture, grids)
    part = refined(picture, mask, box, settings.most)
    shown = part if settings.images == "refined" else [picture, part]
    return Carved(_again(model, processor, shown, asked, settings), first, total, box, part, grids)


def contrast(ours: torch.Tensor, general: torch.Tensor, lam: float) -> torch.Tensor:
    """a^Q / (a^G + lam) summed over layers, `[steps, tokens]`, from attention `[layers, steps, H, tokens]` each.

    Steps that one of the two does not have are left out.
    """
    steps = min(ours.shape[1], general.shape[1])
    ours, general = (one[:, :steps].mean(2) for one in (ours, general))
    return (ours / (general + lam)).sum(0)


def weighted(scores: torch.Tensor, steps: str) -> torch.Tensor:
    """One map of the maps `[steps, gh, gw]`: a step alone, or all with the weights 1, 2, 3..."""
    if steps != "all":
        return scores[0 if steps == "first" else -1]
    weights = torch.arange(1, len(scores) + 1, dtype=scores.dtype)
    return (weights[:, None, None] * scores).sum(0)


def _layers(settings: CarveConfig, total: int) -> list[int]:
    if settings.layers is None:
        return list(LAYERS if total >= LAYERS.stop else at_depth(LAYERS, total))
    chosen = select_layers(settings.layers, total)
    return [layer for layer in range(total) if chosen(layer)]


def _with_suffix(question: str, suffix: str) -> str:
    return f"{question}\n{suffix}" if suffix else question


def _answer(
    model: Any, processor: Any, picture: Any, question: str, layers: list[int], settings: CarveConfig
) -> tuple[str, torch.Tensor, dict[str, Any]]:
    """An answer, the attention behind it `[layers, steps, H, image tokens]`, and what the model was given."""
    inputs = prompt_inputs(model, processor, picture, question)
    made, seen = captured(model, layers, lambda: _generate(model, inputs, settings))
    return _text(processor, inputs, made), seen, inputs


def _again(model: Any, processor: Any, shown: Any, question: str, settings: CarveConfig) -> str:
    inputs = prompt_inputs(model, processor, shown, question)
    return _text(processor, inputs, _generate(model, inputs, settings))


def _generate(model: Any, inputs: dict[str, Any], settings: CarveConfig) -> torch.Tensor:
    with torch.no_grad(), own_processor(model):
        return model.generate(**inputs, max_new_tokens=settings.max_new_tokens, do_sample=False, num_beams=1)


def _text(processor: Any, inputs: dict[str, Any], made: torch.Tensor) -> str:
    new = made[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip()
