"""The mixture: which packs of samples each optimiser step trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from attnpatch.training.data_settings import Source
from attnpatch.training.packing import Draw, Plan, Rows, draws
from attnpatch.training.recipe import Recipe
from attnpatch.training.samples import Pack, Sample
from attnpatch.training.sources import Samples, SandboxSamples

Progress = Callable[[int, int, str], None]


class Mixture:
    """The packs of every step of a recipe.

    They depend on the recipe, the tokenizer and the step only: every process of a run, in any order and after a
    resume, gets the same. With several processes, let the first one build the mixture before the others: data sets
    are tokenised once and cached.

    Args:
        recipe: `recipe.data` says what to read, `recipe.training.loss_on` which tokens count.
        tokenizer: the model's.
        progress: called as `progress(done, total, text)` while sources are read.

    Raises:
        DataError: a source cannot be used.
    """

    def __init__(self, recipe: Recipe, tokenizer: Any, progress: Progress | None = None) -> None:
        self.data = recipe.data
        answers_only = recipe.training.loss_on == "answers"
        self._sources: list[Samples] = []
        for number, source in enumerate(self.data.sources):
            if progress is not None:
                progress(number, len(self.data.sources), f"reading {source.name}")
            self._sources.append(self._open(source, number, answers_only, tokenizer))
        rows = [
            Rows(source.task, source.weight, samples.lengths, source.sandbox is not None or source.shuffle)
            for source, samples in zip(self.data.sources, self._sources, strict=True)
        ]
        stream = draws(rows, self.data.seed, self.data.balance)
        self._plan = Plan(stream, self.data.packs_per_step, self.data.pack_tokens)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in the order of the recipe."""
        return list(self.targets)

    @property
    def targets(self) -> dict[str, float | None]:
        """The wanted share of sparse layers of every task."""
        return {source.task: source.omega for source in self.data.sources}

    def packs(self, step: int) -> list[Pack]:
        """The `data.packs_per_step` packs of optimiser step `step`, those with the longest samples first.

        Dealing them out in turn (`packs[rank::world_size]`) gives every process about the same work.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}.")
        return [Pack(tuple(map(self._sample, pack))) for pack in self._plan.step(step)]

    def describe(self) -> list[dict[str, Any]]:
        """What each source holds, see `SourceFacts`."""
        return [asdict(source.facts) for source in self._sources]

    def _sample(self, draw: Draw) -> Sample:
        return self._sources[draw.source].sample(draw.row, draw.epoch)

    def _open(self, source: Source, number: int, answers_only: bool, tokenizer: Any) -> Samples:
        if source.sandbox is not None:
            return SandboxSamples(source, number, self.data.seed, answers_only, tokenizer)
        from attnpatch.training.tables import TableSamples

        return TableSamples(source, number, self.data, answers_only, tokenizer)
