"""What a generator hands out: a prompt in words, and a recipe that makes one of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Draft:
    """One sample in words.

    Attributes:
        text: the user's turn.
        prefix: the start of the answer; stands behind the chat template.
        references: the texts to be found in the prediction.
        depths: where the answers stand, 0 = start of the context, 1 = its end: one per reference, one for all, none.
    """

    text: str
    prefix: str
    references: tuple[str, ...]
    depths: tuple[float, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One sample in any size.

    Attributes:
        draft: `(rng, count) -> Draft` with `count` items in the haystack; a fresh `rng` with the same seed gives the
            same facts for every count.
        least: the smallest count that works.
        most: the largest count there is material for, None if it can be repeated.
        material: what runs out at `most`, and the option that gives more of it.
        place: the depth that was asked for, None if it is drawn.
    """

    draft: Callable[[Random, int], Draft]
    least: int
    most: int | None = None
    material: tuple[str, str] = ("", "")
    place: float | None = None


class TooShort(ValueError):
    """The task has no sample at this length; `needed` tokens are the least that could do."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"at least {needed} tokens are needed")
        self.needed = needed


def depth_of(context: str, piece: str) -> float:
    """Where `piece` stands in `context`: 0 at its start, 1 if it ends it."""
    return context.index(piece) / max(1, len(context) - len(piece))


def position(depth: float, count: int) -> int:
    """The place between `count` items that is `depth` of the way in."""
    return min(count, max(0, round(depth * count)))


def drawn(rng: Random, items: Sequence, count: int) -> list:
    """`count` of `items` without repetition; asking for more with the same seed keeps the first ones."""
    pool = list(items)
    for index in range(count):
        other = rng.randrange(index, len(pool))
        pool[index], pool[other] = pool[other], pool[index]
    return pool[:count]


def listed(words: Sequence[str]) -> str:
    """`a`, or `a, b, and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, and {words[-1]}"


def numbered(words: Sequence[str]) -> str:
    """`1. a 2. b 3. c`."""
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))
