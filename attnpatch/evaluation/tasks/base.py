"""What a task is: a name, documents with answers, and how they are scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnpatch.evaluation.errors import SkipCell, UsageError


@dataclass(frozen=True)
class Document:
    """One prompt with its answers.

    Attributes:
        id: the same for every method, so that scores can be paired.
        input_ids: token ids, special tokens included; as long as the task's length says, or, where the model
            generates, the prompt, which leaves room for the answer.
        answers: indices p of the tokens to be predicted, ascending; position p - 1 predicts token p.
        meta: per-answer lists or one value for all (`depth`, `gap`), `place` (the depth that was asked for),
            `candidates` (ids of the possible answers), `slices` (name -> indices into `answers`, scored apart).
        references: where the model generates: the texts that a right prediction holds.
        context_end: how many tokens a method that reads the whole prompt may read before it decides; None: those
            before the first answer. Raises ValueError if it reaches behind the first answer.
    """

    id: str
    input_ids: Sequence[int]
    answers: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    context_end: int | None = None

    def __post_init__(self) -> None:
        if self.context_end is not None and not 1 <= self.context_end <= self.answers[0]:
            raise ValueError(
                f"document {self.id!r}: context_end must be 1 to {self.answers[0]}, the first answer, got "
                f"{self.context_end}; a method would read what it is scored on"
            )

    @property
    def context(self) -> int:
        """How many of its tokens stand before everything that is scored and may be read at once."""
        return self.answers[0] if self.context_end is None else self.context_end

    @property
    def scored(self) -> list[Any]:
        """All that is scored: id, tokens, answer positions, references and the end of the context."""
        end = [] if self.context_end is None else [self.context_end]
        return [self.id, list(self.input_ids), self.answers, self.references, *end]

    @property
    def digest(self) -> str:
        """Short hash of the tokens, to recognise a prompt in other results."""
        return hashlib.sha256(json.dumps(list(self.input_ids)).encode()).hexdigest()[:16]

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
class Generation:
    """How a task's predictions are made and read: greedy, `tokens` new tokens at most.

    match: "all" (the share of references that the prediction holds) or "part" (1 if it holds any of them).
    """

    tokenizer: Any
    tokens: int
    match: str


@dataclass(frozen=True)
class Task:
    """A task for one tokenizer.

    Attributes:
        name: how users call it; the same idea has the same name for every tokenizer.
        source: "sandbox" (the sandbox language), "text" (any tokenizer), "vision" (any model that takes pictures).
        version: raised when the documents of a seed change.
        description: one line.
        metric: "accuracy" (of answer tokens), "perplexity" (of them), "string_match_all" or "string_match_part".
        chance: accuracy of guessing among the plausible answers, None where that has no meaning.
        build: `(length, count, seed) -> list[Document]`; each document has exactly `length` tokens. Raises ValueError
            for a length that does not work.
        mode: "prefill" (the whole document in one forward; methods that read the prompt before they decide get its
            context as that prompt) or "decode" (the context is prefilled, everything from
            two tokens before the first answer is fed token by token over the cache) or "generate" (the documents
            are prompts that the model continues).
        scorer: `(model, documents, batch_size, advance) -> Outcome` of tasks that are scored in a way of their own,
            None for the mode's. Several processes hand it `share`, which picks the batches of each.
        whole: the scorer answers all documents at once, so that one process has to run the whole cell.
        generation: how, for "generate".
        own_length: documents are as long as they are; `build` is handed None for the length.
        columns: `(records) -> {metric: sums and weights}` of tasks with metrics of their own, see `task_metrics`.
        inputs: `(document) -> model inputs`, where a document is more than its tokens.
    """

    name: str
    source: str
    version: int
    description: str
    metric: str
    chance: float | None
    build: Callable[[int | None, int, int], list[Document]]
    mode: str = "prefill"
    scorer: Callable[..., Any] | None = None
    whole: bool = False
    generation: Generation | None = None
    own_length: bool = False
    columns: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None
    inputs: Callable[[Any], dict[str, Any]] | None = None

    def documents(self, length: int | None, count: int, seed: int) -> list[Document]:
        """`count` documents of exactly `length` tokens; prompts are at most that long with the answer.

        Tasks whose documents have their own length take None.

        Raises:
            SkipCell: the task does not work at this length, or something it needs is missing.
            UsageError: a file that it needs cannot be read.
        """
        try:
            documents = self.build(length, count, seed)
        except UsageError:
            raise
        except ValueError as error:
            raise SkipCell(str(error), "take another length with --lengths") from error
        if self.own_length:
            return documents
        wrong = [d.id for d in documents if not self._fits(d, length)]
        if wrong:
            raise RuntimeError(f"task {self.name!r} built documents that are not {length} tokens long: {wrong[:3]}")
        return documents

    def _fits(self, document: Document, length: int) -> bool:
        if self.generation is None:
            return len(document.input_ids) == length
        return len(document.input_ids) + self.generation.tokens <= length


class Documents(list):
    """Documents, and in `details` what is to be known about all of them; it enters the keys of their cells."""

    def __init__(self, documents: Iterable[Document] = (), details: dict[str, Any] | None = None) -> None:
        super().__init__(documents)
        self.details = details or {}


def documents_hash(documents: list[Document]) -> str:
    """sha256 over what is scored, see `Document.scored`."""
    whole = hashlib.sha256()
    for document in documents:
        whole.update(json.dumps(document.scored, separators=(",", ":")).encode())
    return whole.hexdigest()
