"""Prompts about one picture, as a processor writes them, and where the model takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from attnpatch.patching.errors import AttnPatchError

# What transformers says of image tokens that do not fit: the processor, of its own parts, and the model.
_MISFIT = re.compile(
    r"mismatch in `image` token count|image features and image tokens do not match|image size .* doesn't match model",
    re.IGNORECASE,
)


def prompt_text(processor: Any, question: str, pictures: int = 1) -> str:
    """A prompt with the places of pictures before `question`: in the processor's chat template, if it has one."""
    if getattr(processor, "chat_template", None):
        content = [*[{"type": "image"}] * pictures, {"type": "text", "text": question}]
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    for name in ("boi_token", "image_token"):  # some processors put more around the token itself
        token = getattr(processor, name, None)
        if token is not None:
            return f"{token * pictures}\n{question}"
    return f"{'<image>' * pictures}\n{question}"


def prompt_inputs(model: torch.nn.Module, processor: Any, image: Any, question: str) -> dict[str, Any]:
    """What `model` takes to be asked `question` about a PIL image, or a list of them.

    Tensors are where the model is, pixels in its dtype. Raises TypeError for a tokenizer in place of the processor,
    AttnPatchError for a processor whose image tokens are not the model's.
    """
    if not hasattr(processor, "tokenizer"):
        raise TypeError(
            f"processor must be the model's processor, which reads pictures and text, got {type(processor).__name__}. "
            "Load it with AutoProcessor.from_pretrained(...)."
        )
    images = image if isinstance(image, list) else [image]
    text, start = prompt_text(processor, question, len(images)), processor.tokenizer.bos_token
    specials = not (start and text.startswith(start))  # else the template has written the first token already
    with own_processor(model):
        found = processor(text=[text], images=[images], add_special_tokens=specials, return_tensors="pt")
    token = getattr(model.config, "image_token_id", None)
    if token is not None and not bool((found["input_ids"] == token).any()):
        raise _misfit(model, f"in a prompt with a picture none of its tokens has the model's image_token_id, {token}")
    device = model.get_input_embeddings().weight.device
    return {
        name: value.to(device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in found.items()
    }


@contextmanager
def own_processor(model: torch.nn.Module) -> Iterator[None]:
    """Inside, transformers' error about images that do not fit becomes an AttnPatchError with a likely cause."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, AttnPatchError) or not _MISFIT.search(str(error)):
            raise
        reason = str(error).partition(" Likely")[0]  # what follows is a guess at another cause
        raise _misfit(model, reason) from error


def _misfit(model: torch.nn.Module, found: str) -> AttnPatchError:
    return AttnPatchError(
        f"the processor does not fit {type(model).__name__}: {found.rstrip('.')}. The processor may belong to another "
        "model: load this one's with AutoProcessor.from_pretrained on its own id."
    )
