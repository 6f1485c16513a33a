"""From a question about a picture to what a vision-language model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from attnpatch.evaluation.vision.documents import PictureDocument

CHAT, PLAIN = "chat template", "plain"


class Prompter:
    """Writes prompts for one processor, in its chat template if it has one and `chat_template` is set."""

    def __init__(self, processor: Any, chat_template: bool = True) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.mode = CHAT if chat_template and getattr(processor, "chat_template", None) else PLAIN

    def text(self, question: str) -> str:
        """The prompt with the token for one picture in front of the question."""
        if self.mode == PLAIN:
            return f"{self._image_token}\n{question}"
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def ids(self, text: str) -> list[int]:
        """Tokens of a prompt, its picture still one token."""
        return self.tokenizer(text, add_special_tokens=self._adds_specials(text))["input_ids"]

    def inputs(self, documents: Sequence[PictureDocument]) -> dict[str, Any]:
        """Model inputs of a batch, shorter prompts padded on the left.

        Raises:
            RuntimeError: a picture cannot be decoded.
        """
        texts = [document.text for document in documents]
        with _padded_left(self.tokenizer):
            return self.processor(
                text=texts,
                images=[[document.picture.open()] for document in documents],
                padding=len(texts) > 1,
                add_special_tokens=self._adds_specials(texts[0]),
                return_tensors="pt",
            )

    @property
    def _image_token(self) -> str:
        """What stands for a picture in text: some processors put more around the token itself."""
        for name in ("boi_token", "image_token"):
            token = getattr(self.processor, name, None)
            if token is not None:
                return str(token)
        return "<image>"

    def _adds_specials(self, text: str) -> bool:
        """False where the template has written the first token already."""
        start = self.tokenizer.bos_token
        return not (start and text.startswith(start))


def on_device(inputs: dict[str, Any], model: torch.nn.Module, device: torch.device) -> dict[str, Any]:
    """The inputs where the model takes them, pixels in its dtype."""
    return {
        name: value.to(device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }


@contextmanager
def _padded_left(tokenizer: Any) -> Iterator[None]:
    """Padding on the left inside; the tokenizer is the caller's and stays as it was."""
    side, pad = tokenizer.padding_side, tokenizer.pad_token
    tokenizer.padding_side = "left"
    if pad is None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        yield
    finally:
        tokenizer.padding_side = side
        if pad is None:
            tokenizer.pad_token = None
