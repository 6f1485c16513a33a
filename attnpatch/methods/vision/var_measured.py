"""What `attnpatch calibrate var` measures: the sink dimensions on prompts with images, and what sinks look like."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from attnpatch.methods.vision.massive import TAU, Strength, like_first, middle, phi, residual_stream, threshold
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.images import image_host, look
from attnpatch.patching.sites import inspect_model, unwrap

Batch = dict[str, Any]
QUANTILES = (0.5, 0.9, 0.99, 1.0)


def measure(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
    """Options of var for `model` and "details".

    Sinks are the first token and whatever points where it does, in the middle third of the layers; the dimensions are
    those that reach tau there, in the median over layers. Raises AttnPatchError where none does.
    """
    batches, text = list(batches), inspect_model(model)
    host = image_host(unwrap(model), text.base, text.skipped)
    masks = [look(host, batch).mask for batch in batches]
    if not any(mask is not None and bool(mask.any()) for mask in masks):
        raise AttnPatchError("var is calibrated on prompts with images; none of those given holds one.")
    size = text.base.config.hidden_size
    tau = threshold(size)
    at_first, at_image, both = _strengths(model, batches, masks)
    dims = both.dims(tau)
    if not dims:
        raise AttnPatchError(
            f"no dimension of this {text.model_class} stands out at its sinks by tau={tau:g} ({both.strongest()}, "
            f"{size**0.5:.1f} is the most there can be): it has no sinks that var could take attention from. Name "
            'dimensions and a threshold yourself: attnpatch.apply(model, "var", dims=[...], tau=...).'
        )
    first, image = at_first.dims(tau), at_image.dims(tau)
    details = {
        "tau": tau,
        "strength": {str(dim): round(float(both.of_dims[dim]), 2) for dim in dims},
        "dims_at_first_token": list(first),
        "dims_at_image_sinks": list(image),
        "dims_at_both": sorted(set(first) & set(image)),
        **_image_tokens(model, batches, masks, torch.tensor(dims), tau),
    }
    return {"dims": list(dims), **({} if tau == TAU else {"tau": tau}), "details": details}


def _strengths(model: nn.Module, batches: list[Batch], masks: list) -> tuple[Strength, Strength, Strength]:
    """How strongly dimensions stand out at the first token, at image tokens that are sinks, and at all sinks."""
    at_first, at_image, both = Strength(), Strength(), Strength()

    def see(layer: int, states: torch.Tensor) -> None:
        if layer not in chosen:
            return
        alike = like_first(states, first.to(states.device)) & real.to(states.device)
        alone = torch.zeros_like(alike)
        alone[torch.arange(len(alone), device=alone.device), first.to(alone.device)] = True
        at_first.add(layer, states, alone)
        at_image.add(layer, states, alike & image.to(states.device))
        both.add(layer, states, alike)

    with residual_stream(model, see) as layers, torch.no_grad():
        chosen = middle(layers)
        for batch, image in zip(batches, masks, strict=True):
            real = _real(batch, image)
            first = real.int().argmax(1)
            model(**batch, use_cache=False)
    return at_first, at_image, both


def _image_tokens(
    model: nn.Module, batches: list[Batch], masks: list, dims: torch.Tensor, tau: float
) -> dict[str, Any]:
    """The distribution of phi over image tokens, and how many of a prompt are sinks, by layer."""
    values: dict[int, list[torch.Tensor]] = {}
    counts: dict[int, list[torch.Tensor]] = {}

    def see(layer: int, states: torch.Tensor) -> None:
        found, where = phi(states, dims.to(states.device)).cpu(), image.cpu()  # of the batch at hand
        values.setdefault(layer, []).append(found[where])
        counts.setdefault(layer, []).append(((found >= tau) & where).sum(1)[where.any(1)])

    with residual_stream(model, see) as layers, torch.no_grad():
        for batch, mask in zip(batches, masks, strict=True):
            image = mask
            model(**batch, use_cache=False)
    every = {layer: torch.cat(values[layer]) for layer in range(layers)}
    return {
        "images": int(sum(mask.any(1).sum() for mask in masks)),
        "phi_quantiles": list(QUANTILES),
        "phi_of_image_tokens": {
            str(layer): [round(float(found.quantile(q)), 2) for q in QUANTILES] for layer, found in every.items()
        },
        "image_sinks_per_prompt": {
            str(layer): round(float(torch.cat(counts[layer]).float().mean()), 2) for layer in range(layers)
        },
    }


def _real(batch: Batch, image: torch.Tensor) -> torch.Tensor:
    mask = batch.get("attention_mask")
    return torch.ones_like(image) if mask is None else mask.bool()
