"""Prompts about one picture, as a processor writes them, and where the model takes them."""

from __future__ import annotations

from typing import Any

import torch


def prompt_text(processor: Any, question: str) -> str:
    """A prompt with the place of one picture before `question`: in the processor's chat template, if it has one."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    for name in ("boi_token", "image_token"):  # some processors put more around the token itself
        token = getattr(processor, name, None)
        if token is not None:
            return f"{token}\n{question}"
    return f"<image>\n{question}"


def prompt_inputs(model: torch.nn.Module, processor: Any, image: Any, question: str) -> dict[str, Any]:
    """What `model` takes to be asked `question` about a PIL image: tensors where the model is, pixels in its dtype."""
    text, start = prompt_text(processor, question), processor.tokenizer.bos_token
    specials = not (start and text.startswith(start))  # else the template has written the first token already
    found = processor(text=[text], images=[[image]], add_special_tokens=specials, return_tensors="pt")
    device = model.get_input_embeddings().weight.device
    return {
        name: value.to(device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in found.items()
    }
