"""The processor of a vision-language model: what makes inputs of pictures and text."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from typing import Any

from attnpatch.evaluation.errors import one_line
from attnpatch.evaluation.identity import tokenizer_fingerprint
from attnpatch.vision.processors import without_video


def takes_pictures(config: Any) -> bool:
    """True for the config of a model that reads pictures and writes text."""
    import transformers

    return type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def is_processor(given: Any) -> bool:
    """True for a processor, False for a tokenizer alone."""
    return hasattr(given, "image_processor") and hasattr(given, "tokenizer")


def load_processor(where: str, config: Any, **given: Any) -> tuple[Any, str | None]:
    """The processor of a checkpoint and None, or None and the reason why there is none."""
    if not takes_pictures(config):
        return None, f"{type(config).__name__} is the config of a model that takes no pictures"
    from transformers import AutoProcessor

    try:
        found = AutoProcessor.from_pretrained(where, **given)
    except Exception as error:  # noqa: BLE001 - a dozen types; the model's text side works without it
        found = None
        if find_spec("torchvision") is None:
            found = without_video(where, config, given)
        if found is None:
            return None, f"its processor cannot be loaded: {one_line(error, 200)}"
    return (found, None) if is_processor(found) else (None, f"{type(found).__name__} is no processor of pictures")


def picture_side(source: Any) -> tuple[Any, str | None]:
    """The processor of a model source, and why it has none."""
    return getattr(source, "processor", None), getattr(source, "no_processor", None)


def text_side_fingerprint(tokenizer: Any, processor: Any) -> str | None:
    """sha256 over the tokenizer, and over what the processor does with pictures and prompts if there is one."""
    found = tokenizer_fingerprint(tokenizer)
    if processor is None:
        return found
    made = [processor.to_dict(), processor.image_processor.to_dict(), getattr(processor, "chat_template", None)]
    return hashlib.sha256(json.dumps([found, made], sort_keys=True, default=str).encode()).hexdigest()
