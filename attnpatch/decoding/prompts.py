"""What a companion needs to know of the prompts: which hold images, and the inputs of those alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from attnpatch.patching.errors import AttnPatchError, UnsupportedCallError
from attnpatch.patching.images import ImageHost, Images, Seen, image_host, look, refuse_no_image, refuse_placeholders
from attnpatch.patching.sites import attention_layers, text_base, unwrap
from attnpatch.patching.text_only import PER_TOKEN, text_only

if TYPE_CHECKING:
    from attnpatch.decoding.companion import Companion

_REFUSED = {
    "inputs_embeds": "where the images stand in embeddings cannot be known; give input_ids",
    "past_key_values": "a second branch starts from its own prompt, so give the whole conversation without a cache",
    "position_ids": "a second branch has positions of its own; leave them to generate()",
}


@dataclass(frozen=True)
class Prompts:
    """The prompts of one `generate` call.

    model: without its wrappers; inputs: with an attention_mask; images: where the image tokens stand, `[B, T]`.
    """

    model: PreTrainedModel
    host: ImageHost
    inputs: dict[str, Any]
    images: Images

    @property
    def rows(self) -> torch.Tensor:
        """Numbers of the prompts that hold an image."""
        return self.images.rows.nonzero().flatten()

    def with_images(self) -> dict[str, Any]:
        """The inputs without the prompts that hold no image; pixels stay, for they belong to the others."""
        if self.images.all:
            return dict(self.inputs)
        names = (*PER_TOKEN, "attention_mask")
        return {name: value[self.rows] if name in names else value for name, value in self.inputs.items()}

    def without_images(self) -> dict[str, torch.Tensor]:
        """The text of the prompts that hold an image, left-padded, and nothing of the images."""
        mask = self.inputs["attention_mask"]
        return text_only(self.host, self.inputs, self.images.mask, self.rows, padding=mask)


def read_prompts(model: Any, inputs: Mapping[str, Any]) -> Prompts:
    """The prompts in `inputs`.

    Raises UnsupportedModelError for a model without image tokens, and AttnPatchError for inputs that do not say which
    tokens the prompts are.
    """
    outer = unwrap(model)
    base = text_base(outer)
    skipped = tuple((name, reason) for name, _, reason in attention_layers(base) if reason)
    host = image_host(outer, base, skipped)
    inputs = dict(inputs)
    for name, reason in _REFUSED.items():
        if inputs.get(name) is not None:
            raise UnsupportedCallError(f"inputs hold {name}: {reason}.")
    ids = inputs.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2:
        raise AttnPatchError(
            f"inputs must hold input_ids [batch, tokens] as a tensor, got {type(ids).__name__}; give what the model's "
            "processor returns with return_tensors='pt'."
        )
    if inputs.get("attention_mask") is None:
        pad = outer.generation_config.pad_token_id
        if pad is not None and bool((ids == pad).any()):
            raise AttnPatchError(
                f"inputs hold padding tokens (id {pad}) and no attention_mask, so what is padding is unknown; pass "
                "the attention_mask that the model's processor made."
            )
        inputs["attention_mask"] = torch.ones_like(ids)
    return Prompts(outer, host, inputs, Images(look(host, inputs).mask, ids))


def pictured_prompts(companion: Companion, model: Any, inputs: Mapping[str, Any]) -> Prompts:
    """The prompts in `inputs`, for a companion about images.

    Raises as `read_prompts`, and UnsupportedCallError for image tokens without their images, and where no prompt holds
    an image and the companion does not let such prompts pass.
    """
    prompts = read_prompts(model, inputs)
    refuse_placeholders(Seen(prompts.host, prompts.inputs))
    if not prompts.images.any:
        refuse_no_image([companion])
    return prompts
