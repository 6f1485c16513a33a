"""The one-liner: options of the companion and of `generate` in one call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from attnpatch.decoding.companion import Companion
from attnpatch.decoding.registry import build, companion_class
from attnpatch.patching.errors import AttnPatchError, did_you_mean
from attnpatch.patching.sites import unwrap


def generate(
    model: PreTrainedModel, inputs: Mapping[str, Any], companion: str | Companion, **options: Any
) -> torch.Tensor:
    """What `model` writes behind the prompts `inputs` when it is decoded by `companion`.

    Args:
        model: a vision-language model, patched or not; `sgrs` takes a language model too.
        inputs: what the model's processor made of the prompts.
        companion: one of `attnpatch.decoding.NAMES`, or a finished companion.
        options: the companion's own options (`attnpatch show COMPANION`), and anything `model.generate` takes.

    Returns:
        What `model.generate` returns.

    Raises:
        AttnPatchError: an unknown companion or option, a value out of range, or inputs that lack what it needs.
        TypeError: inputs that are no mapping.
        UnsupportedModelError: a model without image tokens, for companions about images.
        UnsupportedCallError: a batch without any image, for the same ones; `text_only="stock"` lets it through.
    """
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs must be what the model's processor returns, got {type(inputs).__name__}.")
    fields = companion_class(companion).Config.model_fields if isinstance(companion, str) else {}
    own = {name: options.pop(name) for name in list(options) if name in fields}
    _refuse_unknown(model, options, fields, companion)
    return build(companion, **own).generate(model, inputs, **options)


def _refuse_unknown(model: Any, options: dict[str, Any], fields: Mapping[str, Any], companion: Any) -> None:
    host = unwrap(model)
    known = {*vars(GenerationConfig()), *inspect.signature(type(host).generate).parameters}
    known |= {*inspect.signature(type(host).forward).parameters, *fields}
    for name in options:
        if name not in known:
            raise AttnPatchError(
                f"unknown option {name!r}: neither of companion {companion!r} nor of generate()."
                f"{did_you_mean(name, known)} Options of the companion: {', '.join(fields) or '(given when built)'}."
            )
