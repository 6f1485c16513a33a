"""From a conversation to tokens, with the exact place where the answer starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from attnpatch.training.conversation import Conversation
from attnpatch.training.problems import DataError

# Llama's templates print a date; today's would give other tokens after a resume tomorrow.
_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class Rendered:
    """Tokens of a conversation. The answer is `input_ids[prompt_end:]`, with the tokens that close its turn.

    apart: prompt and answer were tokenised one by one, because together they share a token or the template shows the
    prompt of a finished conversation differently. Generation sees the prompt as it is here.
    """

    input_ids: list[int]
    prompt_end: int
    apart: bool = False


class Renderer:
    """Renders with the tokenizer's chat template, thinking off where the template knows it; else as plain text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._template = tokenizer.get_chat_template() if tokenizer.chat_template else None
        self._extra: dict[str, Any] = {}
        if self._template is None:
            self.description = "plain text: turns and blank lines (the tokenizer has no chat template)"
            return
        self.description = "chat template"
        if "enable_thinking" in self._template:
            self._extra["enable_thinking"] = False
            self.description += ", thinking off"
        if "date_string" in self._template:
            self._extra["date_string"] = _DATE

    def __call__(self, conversation: Conversation) -> Rendered:
        """The tokens.

        Raises:
            DataError: the chat template refuses the conversation.
        """
        start, end = self._edges()
        prompt, whole = self._texts(conversation)
        before, tokens = self._encode(prompt), self._encode(whole)
        apart = tokens[: len(before)] != before or len(tokens) == len(before)
        if apart:
            # A template that rewrites the finished prompt leaves only the answer itself to go by.
            rest = whole[len(prompt) :] if whole.startswith(prompt) else conversation.answer
            if not whole.startswith(prompt) and self.tokenizer.eos_token_id is not None:
                end = [self.tokenizer.eos_token_id]
            tokens = before + self._encode(rest)
        return Rendered(start + tokens + end, len(start) + len(before), apart)

    def fit(self, conversation: Conversation, max_tokens: int) -> Rendered | None:
        """As `__call__`, with the middle of the context cut out until `max_tokens` hold it.

        None if question and answer alone are longer.
        """
        rendered = self(conversation)
        shorter: Conversation | None = conversation
        while (excess := len(rendered.input_ids) - max_tokens) > 0:
            characters = sum(len(turn["content"]) for turn in shorter.messages())
            per_token = characters / len(rendered.input_ids)
            shorter = shorter.shorten(math.ceil((excess + 1) * per_token))
            if shorter is None:
                return None
            rendered = self(shorter)
        return rendered

    def _edges(self) -> tuple[list[int], list[int]]:
        """Tokens around the text: those of a chat stand in its template."""
        if self._template is not None:
            return [], []
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        adds_bos = bos is not None and self.tokenizer("a").input_ids[:1] == [bos]
        return [bos] if adds_bos else [], [] if eos is None else [eos]

    def _texts(self, conversation: Conversation) -> tuple[str, str]:
        """The text up to the answer, and the whole text."""
        messages = conversation.messages()
        if self._template is None:
            prompt = "\n\n".join(turn["content"] for turn in messages[:-1]) + "\n\n"
            return prompt, prompt + conversation.answer
        try:
            return (
                self.tokenizer.apply_chat_template(
                    messages[:-1], tokenize=False, add_generation_prompt=True, **self._extra
                ),
                self.tokenizer.apply_chat_template(messages, tokenize=False, **self._extra),
            )
        except Exception as error:  # whatever a template raises on turns it does not take
            raise DataError(f"the chat template refuses the conversation: {error}") from error

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
