"""What a task is: a name, documents with answers, and how they are scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from attnpatch.evaluation.errors import SkipCell


@dataclass(frozen=True)
class Document:
    """One prompt with its answers.

    Attributes:
        id: the same for every method, so that scores can be paired.
        input_ids: token ids, special tokens included; as long as the task's length says.
        answers: indices p of the tokens to be predicted, ascending; position p - 1 predicts token p.
        meta: per-answer lists or one value for all (`depth`, `gap`), `candidates` (ids of the possible answers),
            `slices` (name -> indices into `answers`, scored apart as well).
    """

    id: str
    input_ids: tuple[int, ...]
    answers: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def per_answer(self, name: str) -> list[float] | None:
        """`meta[name]` as one value per answer, or None."""
        value = self.meta.get(name)
        if value is None:
            return None
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if len(values) == len(self.answers):
            return values
        return values * len(self.answers) if len(values) == 1 else None


@dataclass(frozen=True)
class Task:
    """A task for one tokenizer.

    Attributes:
        name: how users call it; the same idea has the same name for every tokenizer.
        source: "sandbox" (the sandbox language) or "text" (any tokenizer).
        version: raised when the documents of a seed change.
        description: one line.
        metric: "accuracy" (of answer tokens) or "perplexity" (of them).
        chance: accuracy of guessing among the plausible answers, None where that has no meaning.
        build: `(length, count, seed) -> list[Document]`; each document has exactly `length` tokens. Raises ValueError
            for a length that does not work.
        mode: "prefill" (the whole document in one forward) or "decode" (the context is prefilled, everything from
            two tokens before the first answer is fed token by token over the cache).
    """

    name: str
    source: str
    version: int
    description: str
    metric: str
    chance: float | None
    build: Callable[[int, int, int], list[Document]]
    mode: str = "prefill"

    def documents(self, length: int, count: int, seed: int) -> list[Document]:
        """`count` documents of exactly `length` tokens.

        Raises:
            SkipCell: the task does not work at this length.
        """
        try:
            documents = self.build(length, count, seed)
        except ValueError as error:
            raise SkipCell(str(error), "take another length with --lengths") from error
        wrong = [d.id for d in documents if len(d.input_ids) != length]
        if wrong:
            raise RuntimeError(f"task {self.name!r} built documents that are not {length} tokens long: {wrong[:3]}")
        return documents


def documents_hash(documents: list[Document]) -> str:
    """sha256 over what is scored: ids, tokens and answer positions."""
    text = json.dumps([[d.id, d.input_ids, d.answers] for d in documents], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
