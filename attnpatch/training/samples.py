"""What training reads: samples, and packs of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One text with what is trained on in it.

    Attributes:
        input_ids: the tokens.
        weights: the loss weight of each token as a label; 0 is not trained on, and `weights[0]` has no meaning.
        prompt_end: 1 to len - 1. Tokens `[0, prompt_end)` are what a router may read; the answer starts there.
        task: the name that the recipe gives its source.
        id: where it comes from, the same in every run.
    """

    input_ids: tuple[int, ...]
    weights: tuple[float, ...]
    prompt_end: int
    task: str
    id: str

    def __post_init__(self) -> None:
        length = len(self.input_ids)
        if len(self.weights) != length:
            raise ValueError(f"sample {self.id!r}: {length} tokens, but {len(self.weights)} weights.")
        if not 1 <= self.prompt_end < length:
            raise ValueError(f"sample {self.id!r}: prompt_end must be 1 to {length - 1}, got {self.prompt_end}.")

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def trained(self) -> int:
        """How many tokens the loss is taken on."""
        return sum(weight > 0 for weight in self.weights[1:])


@dataclass(frozen=True)
class Pack:
    """Samples that go through the model in one row. They must not see each other: `lengths` says where each ends."""

    samples: tuple[Sample, ...]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(len(sample) for sample in self.samples)
