"""Documents of one task: one random stream a sample, as many items as the length holds, the length checked."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.ruler.prompt import Prompts
from attnpatch.evaluation.ruler.sample import Draft, Recipe, TooShort
from attnpatch.evaluation.ruler.sizing import largest_count, smallest_length
from attnpatch.evaluation.tasks.base import Document, Generation

_FIRST_GUESS = 8


class Builder:
    """Builds the documents of `task`.

    recipe: `(length, index, seed) -> Recipe`; generation: how many tokens are kept free, and what counts as right.
    """

    def __init__(
        self, task: str, recipe: Callable[[int, int, int], Recipe], prompts: Prompts, generation: Generation
    ) -> None:
        self.task, self.recipe, self.prompts = task, recipe, prompts
        self.generated, self.match = generation.tokens, generation.match

    def documents(self, length: int, count: int, seed: int) -> list[Document]:
        """`count` documents; with the generated tokens none is longer than `length`, and no item more would fit.

        Raises:
            ValueError: the length is too short; names the smallest one that works. Or the tokenizer cannot write
                the answers.
            SkipCell: the length needs more material than there is.
        """
        budget = length - self.generated
        guess = self._guess(length, count, seed, budget)
        return [self._document(length, index, seed, count, budget, guess) for index in range(count)]

    def _random(self, length: int, index: int, seed: int) -> Random:
        return Random(f"{seed}/{self.task}/{length}/{index}")

    def _recipe(self, length: int, index: int, seed: int, count: int) -> Recipe:
        try:
            return self.recipe(length, index, seed)
        except TooShort as error:
            raise self._too_short(length, count, seed) from error

    def _guess(self, length: int, count: int, seed: int, budget: int) -> int:
        """The size of the first sample: close to that of all others, and the same however many are asked for."""
        recipe = self._recipe(length, 0, seed, count)
        return self._size(recipe, length, 0, seed, budget, _FIRST_GUESS * recipe.least) or recipe.least

    def _size(self, recipe: Recipe, length: int, index: int, seed: int, budget: int, guess: int) -> int | None:
        def tokens(items: int) -> int:
            return len(self.prompts.encode(recipe.draft(self._random(length, index, seed), items)))

        try:
            return largest_count(tokens, budget, recipe.least, recipe.most, guess)
        except ValueError as error:
            raise ValueError(f"{self.task} with the tokenizer {self.prompts.name!r}: {error}") from error

    def _document(self, length: int, index: int, seed: int, count: int, budget: int, guess: int) -> Document:
        recipe = self._recipe(length, index, seed, count)
        items = self._size(recipe, length, index, seed, budget, guess)
        if items is None:
            raise self._too_short(length, count, seed)
        draft = recipe.draft(self._random(length, index, seed), items)
        ids = self.prompts.encode(draft)
        if len(ids) > budget:
            raise RuntimeError(f"{self.task}: {len(ids)} tokens do not leave {self.generated} of {length}")
        if items == recipe.most and (budget - len(ids)) * items > len(ids):  # room for more than one item
            what, option = recipe.material
            raise SkipCell(
                f"{self.task} at {length} tokens needs more than the {items} {what} there are",
                f"give more with {option}, or take shorter --lengths",
            )
        self._check_answers(draft)
        meta = {"items": items}
        if draft.depths:
            meta["depth"] = list(draft.depths)
        if recipe.place is not None:
            meta["place"] = recipe.place
        return Document(str(index), ids, (), meta, draft.references)

    def _check_answers(self, draft: Draft) -> None:
        written = [self.prompts.writes(reference) for reference in draft.references]
        if not (any(written) if self.match == "part" else all(written)):
            lost = draft.references[written.index(False)]
            raise ValueError(
                f"{self.task}: the tokenizer {self.prompts.name!r} cannot write the answer {lost!r}, so no model can "
                "give it"
            )

    def _too_short(self, length: int, count: int, seed: int) -> ValueError:
        smallest = smallest_length(lambda longer: self._need(longer, count, seed), length)
        return ValueError(
            f"{self.task} does not fit into {length} tokens with the tokenizer {self.prompts.name!r}: the smallest "
            f"workable length is {smallest}"
        )

    def _need(self, length: int, count: int, seed: int) -> int:
        """Tokens that the longest of the smallest samples takes at this length."""
        needed = 0
        for index in range(count):
            try:
                recipe = self.recipe(length, index, seed)
            except TooShort as error:
                return error.needed
            ids = self.prompts.encode(recipe.draft(self._random(length, index, seed), recipe.least))
            needed = max(needed, len(ids) + self.generated)
        return needed
