"""Where in a picture the row looks that writes a token of the answer: by layer and head, stock and patched."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from attnpatch.methods.vision.massive import TAU, residual_stream, spikes
from attnpatch.patching.apply import apply
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.layers import LayerSpec, select_layers
from attnpatch.patching.method import Method
from attnpatch.patching.sites import inspect_model
from attnpatch.vision.capture import captured
from attnpatch.vision.maps import Tile, tiles_of
from attnpatch.vision.pictures import opened
from attnpatch.vision.prompts import own_processor, prompt_inputs

FAR_OUT = 3.0  # interquartile distances above the third quartile from which on attention is an outlier


@dataclass(frozen=True)
class Look:
    """One run. attention: of the row that wrote `token`, `[layers, H, image tokens]`; sinks: bool `[layers, tokens]`.

    marked: by what rule these are sinks, "phi" or "outliers".
    """

    label: str
    answer: str
    token: str
    attention: torch.Tensor
    sinks: torch.Tensor
    marked: str


@dataclass(frozen=True)
class Looks:
    """Runs of the same prompt. layers: which they hold; tiles: where the image tokens lie on `picture` (PIL)."""

    picture: Any
    question: str
    step: int
    layers: list[int]
    tiles: list[Tile]
    runs: list[Look]


def look(
    model: torch.nn.Module,
    processor: Any,
    image: Any,
    question: str,
    *,
    methods: Sequence[tuple[str, Method | tuple[str, dict[str, Any]]]] = (),
    layers: LayerSpec | None = None,
    token: int = 0,
) -> Looks:
    """Read where the model looks as it writes a token of its answer, stock and with each of `methods`.

    Args:
        model, processor: as `load_vision_model` returns them.
        image: a PIL image or a file.
        question: about the picture.
        methods: label and method of each patched run.
        layers: which are read, as in `attnpatch.apply`; None: all that can be.
        token: number of the answer's token, the first is 0.

    Raises:
        AttnPatchError: a picture that cannot be read, an empty question, a layer that does not exist, the processor
            of another model, or an answer without so many tokens.
        UnsupportedModelError: a model whose image tokens cannot be placed on the picture, or one that a method cannot
            patch.
    """
    if not question.strip():
        raise AttnPatchError("question is empty; ask something about the picture.")
    if token < 0:
        raise AttnPatchError(f"token must be 0 or more, got {token}; 0 is the first token of the answer.")
    picture = opened(image)
    text = inspect_model(model)
    chosen = select_layers(layers, text.layers)
    named = [site.layer for site in text.sites if chosen(site.layer) and (layers is not None or not site.softcap)]
    inputs = prompt_inputs(model, processor, picture, question)
    tiles = tiles_of(model, processor, inputs, picture.size)
    runs = []
    for label, method in [("stock", None), *methods]:
        with ExitStack() as stack:
            if method is not None:
                stack.enter_context(apply(model, method))
            runs.append(_run(model, processor, inputs, label, named, token))
    return Looks(picture, question, token, named, tiles, runs)


def _run(model: Any, processor: Any, inputs: dict[str, Any], label: str, layers: list[int], token: int) -> Look:
    image = inputs["input_ids"][0] == model.config.image_token_id
    massive: dict[int, torch.Tensor] = {}

    def see(layer: int, states: torch.Tensor) -> None:
        if states.shape[1] == len(image) and layer in layers and layer not in massive:
            found = spikes(states[0])  # a sink stands out in a dimension in which the first token does
            massive[layer] = ((found >= TAU) & (found[0] >= TAU)).any(-1)[image].cpu()

    def generate() -> torch.Tensor:
        with torch.no_grad(), own_processor(model):
            return model.generate(**inputs, max_new_tokens=token + 1, do_sample=False, num_beams=1)

    with residual_stream(model, see):
        made, seen = captured(model, layers, generate)
    new = made[0, inputs["input_ids"].shape[1] :]
    answer = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    if seen.shape[1] <= token:
        raise AttnPatchError(
            f"the answer of {label} has only {seen.shape[1]} tokens ({answer!r}), so there is no token {token}. "
            f"Allowed: 0 to {seen.shape[1] - 1}."
        )
    attention = seen[:, token]
    sinks, marked = torch.stack([massive[layer] for layer in layers]), "phi"
    if not bool(sinks.any()):  # small models have no massive activations
        sinks, marked = outliers(attention.mean(1)), "outliers"
    return Look(label, answer, processor.tokenizer.decode(new[token : token + 1]).strip(), attention, sinks, marked)


def outliers(attention: torch.Tensor) -> torch.Tensor:
    """Which of `[..., tokens]` lie above the third quartile by more than 3 interquartile distances, bool."""
    quartiles = torch.tensor([0.25, 0.75])
    low, high = attention.float().quantile(quartiles, dim=-1, keepdim=True)
    return attention > high + FAR_OUT * (high - low)
