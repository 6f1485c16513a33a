"""From a draft to token ids: the chat template or the tokenizer's start tokens, then the start of the answer."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.ruler.sample import Draft
from attnpatch.evaluation.tasks.language import Language


@dataclass(frozen=True)
class Prompts:
    """A tokenizer's prompts, with or without its chat template."""

    tokenizer: object
    chat: bool = False

    @cached_property
    def _start(self) -> list[int]:
        return Language(self.tokenizer).start

    @property
    def name(self) -> str:
        return getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__

    def check(self) -> None:
        """Raise SkipCell if the tokenizer has no chat template and one is asked for."""
        if self.chat and not getattr(self.tokenizer, "chat_template", None):
            raise SkipCell(
                f"the tokenizer {self.name!r} has no chat template", "leave --apply-chat-template away for base models"
            )

    def ids(self, text: str) -> list[int]:
        """Token ids of `text` without special tokens."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def tokens(self, text: str) -> int:
        return len(self.ids(text))

    def encode(self, draft: Draft) -> array:
        """The whole prompt as ids, 4 bytes each: documents of 128k tokens are many."""
        if not self.chat:
            return array("i", [*self._start, *self.ids(draft.text + draft.prefix)])
        turn = [{"role": "user", "content": draft.text}]
        shown = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return array("i", self.ids(shown + draft.prefix))

    def writes(self, text: str) -> bool:
        """True if `text` comes back from its tokens, so that a model can answer it."""
        back = self.tokenizer.decode(
            self.ids(f" {text}"), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.lower() in back.lower()
