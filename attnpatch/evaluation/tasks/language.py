"""What a tokenizer can say: its single-token words and running text, for tasks that work with any vocabulary."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cached_property
from random import Random

from attnpatch.evaluation.tasks.prose import sentence

WORDS = 512  # this many of the commonest words are enough
FEWEST = 64  # below this, letters and digits serve as words
_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Language:
    """A tokenizer seen as a stock of words.

    Words are ids of tokens that stand for one whole word where they are put behind running text; tokenizers without
    such tokens (bytes, characters) use single letters and digits instead.
    """

    tokenizer: object

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @cached_property
    def _encoded(self) -> dict[str, list[int]]:
        return {}

    def encode_once(self, text: str) -> list[int]:
        """`encode`, remembered: for long texts that many documents are cut from."""
        if text not in self._encoded:
            self._encoded[text] = self.encode(text)
        return self._encoded[text]

    @cached_property
    def start(self) -> list[int]:
        """Special tokens that the tokenizer puts in front of a text."""
        plain, full = self.encode("a"), list(self.tokenizer.encode("a"))
        for index in range(len(full) - len(plain) + 1):
            if full[index : index + len(plain)] == plain:
                return full[:index]
        return []

    @cached_property
    def speaks_english(self) -> bool:
        """True if English sentences have no unknown token and come back the same, spaces aside."""
        text = " ".join(sentence(Random(0)) for _ in range(20))
        ids = self.encode(text)
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        decoded = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return (unknown is None or unknown not in ids) and "".join(decoded.split()) == "".join(text.split())

    @cached_property
    def words(self) -> list[int]:
        """Single-token words, the commonest (lowest ids) first; letters and digits if there are too few."""
        found = [(index, token) for token, index in self.tokenizer.get_vocab().items() if self._is_word(token)]
        words = [index for index, _ in sorted(found)[:WORDS]]
        if len(words) >= FEWEST:
            return words
        letters = [self.encode(letter) for letter in _LETTERS]
        return [ids[0] for ids in letters if len(ids) == 1 and ids[0] != getattr(self.tokenizer, "unk_token_id", None)]

    def _is_word(self, token: str) -> bool:
        bare = token.lstrip("Ġ▁")
        if not (3 <= len(bare) <= 12 and bare.isascii() and bare.isalpha() and bare.islower()):
            return False
        return self.encode(" " + bare) == [self.tokenizer.convert_tokens_to_ids(token)]

    @cached_property
    def spaced(self) -> bool:
        """True if words carry the space before them (or the tokenizer drops spaces): pieces join without one."""
        return len(self.words) >= FEWEST

    def piece(self, *parts: str | list[int]) -> list[int]:
        """Ids of template text mixed with words; template text is left out if the tokenizer has no English."""
        ids: list[int] = []
        for part in parts:
            if not isinstance(part, str):
                ids += part if self.spaced else [*self.encode(" "), *part]
            elif self.speaks_english:
                ids += self.encode(part)
        return ids

    def filler(self, rng: Random, tokens: int) -> list[list[int]]:
        """Sentences of exactly `tokens` tokens together; the first is cut at its front if need be."""
        parts: list[list[int]] = []
        left = tokens
        while left > 0:
            ids = self._sentence(rng)
            parts.append(ids if len(ids) <= left else ids[len(ids) - left :])
            left -= len(parts[-1])
        parts.reverse()
        return parts

    def _sentence(self, rng: Random) -> list[int]:
        if self.speaks_english:
            return self.encode(" " + sentence(rng))
        stock = self.words[len(self.words) // 2 :]  # the first half are keys and values
        return [rng.choice(stock) for _ in range(rng.randint(7, 11))]
