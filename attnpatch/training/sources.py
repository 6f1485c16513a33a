"""Where samples come from: what every kind of source offers, and the sandbox kind."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

from attnpatch import sandbox
from attnpatch.sandbox.text.vocabulary import ID
from attnpatch.training.data_settings import Source
from attnpatch.training.problems import DataError
from attnpatch.training.samples import Sample

STREAM = "train"  # never dev or test: those measure


@dataclass
class SourceFacts:
    """What a source holds. Counts are None where samples are made as they are needed.

    dropped_empty: rows without a question or an answer.
    apart: samples whose prompt and answer were tokenised apart, because together they would share a token.
    rendering: how rows became text.
    """

    source: str
    task: str
    omega: float | None
    weight: float
    rows: int | None = None
    samples: int | None = None
    tokens: int | None = None
    dropped_long: int = 0
    dropped_short: int = 0
    dropped_empty: int = 0
    truncated: int = 0
    apart: int = 0
    rendering: str = ""


class Samples(Protocol):
    """The samples of one source. `lengths[row]` tokens are what `sample(row, epoch)` has."""

    lengths: list[int]
    facts: SourceFacts

    def sample(self, row: int, epoch: int) -> Sample: ...


class SandboxSamples:
    """Rows of the sandbox language, made when they are needed: another one in every epoch, from the train stream.

    A row of the order is one (task, length) of the recipe, so that an epoch has each of them once.

    Raises:
        DataError: the tokenizer is not the sandbox's.
    """

    def __init__(self, source: Source, number: int, seed: int, answers_only: bool, tokenizer: Any) -> None:
        if tokenizer.get_vocab() != ID:
            raise DataError(
                f"data.sources.{number}: sandbox tasks speak a language of their own, which only model: sandbox:text "
                "knows. Use dataset or files for another model."
            )
        self._source, self._number, self._seed, self._answers_only = source, number, seed, answers_only
        self._cells = [
            (name, length, task.options)
            for name, task in source.sandbox.items()
            for length in task.lengths or source.lengths
        ]
        self.lengths = [length for _, length, _ in self._cells]
        self.facts = SourceFacts(source.name, source.task, source.omega, source.weight, rendering="sandbox language")

    def sample(self, row: int, epoch: int) -> Sample:
        name, length, options = self._cells[row]
        seed = _mix(self._seed, self._number, row, epoch)
        made = sandbox.samples(name, length, 1, STREAM, seed, **options)[0]
        weights = made.weights
        if self._answers_only:
            weights = [weight if weight >= 1 else 0.0 for weight in weights]
        return Sample(
            tuple(made.input_ids), tuple(weights), self._prompt_end(made), self._source.task, f"{name}/{length}/{seed}"
        )

    def _prompt_end(self, made: sandbox.Sample) -> int:
        length, fraction = len(made.input_ids), self._source.prompt_fraction
        end = min(made.answer_positions) if fraction is None else round(fraction * length)
        return max(1, min(end, length - 1))


def _mix(*numbers: int) -> int:
    """One well-spread seed from several, the same on every machine."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")
