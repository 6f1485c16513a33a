"""Scenes: coloured shapes on a 3 x 3 grid, seeded, with a language prior planted in what stands together."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import numpy as np

from attnpatch.sandbox.vision.drawing import GRID, NOISE, draw
from attnpatch.sandbox.vision.questions import SPLITS, Question, questions
from attnpatch.sandbox.vision.vocabulary import COLOURS, PAIRS

WHICH = ("train", "biased", "anti")
STREAMS = ("train", "dev", "test")
COUNTS = (2, 3, 4, 5)  # objects of a scene, each as likely
TOGETHER = 0.86  # chance that a pair is complete; an incomplete one leaves room that a lone shape may take
PAIR_WEIGHTS = (4.0, 3.0, 2.0)  # so that some shapes are more popular than others
CLEAR, FAINT = (0.4, 1.0), (0.14, 0.3)  # ranges of contrast
ONE_FAINT = 0.5  # chance that one object of a scene is faint, so that the prior has something to say about it


@dataclass(frozen=True)
class Thing:
    """One object: what it is, in which cell (0-8, in reading order), and how it is drawn."""

    shape: str
    colour: str
    cell: int
    right: int
    down: int
    radius: int
    contrast: float


@dataclass(frozen=True)
class Scene:
    """One image with what is in it.

    Attributes:
        which: "train", "biased" (partners as in training) or "anti" (no shape's usual partner is present).
        key: the numbers its random generator was seeded with; no two scenes share them.
        objects: in reading order.
        background: grey level in [0, 1].
        noise: standard deviation of the pixel noise.
    """

    which: str
    key: tuple[int, ...]
    objects: tuple[Thing, ...]
    background: float
    noise: float = NOISE

    @cached_property
    def pixels(self) -> np.ndarray:
        """[48, 48, 3] in uint8."""
        return draw(self.objects, self.background, np.random.default_rng((*self.key, 1)), self.noise)

    @cached_property
    def image(self):
        """The scene as a `PIL.Image`, 48 x 48."""
        from PIL import Image

        return Image.fromarray(self.pixels)

    @property
    def shapes(self) -> tuple[str, ...]:
        """The kinds of shapes that are present, each once."""
        return tuple(dict.fromkeys(thing.shape for thing in self.objects))

    @property
    def caption(self) -> str:
        """All objects in reading order: `a red circle , a blue ring .`"""
        return " , ".join(f"a {thing.colour} {thing.shape}" for thing in self.objects) + " ."

    def questions(self, split: str = "random") -> tuple[Question, ...]:
        """POPE questions, half of them with the answer yes; see `questions.questions`."""
        return questions(
            self.shapes, split, np.random.default_rng((*self.key, 2 + SPLITS.index(check(split, SPLITS))))
        )


def scenes(which: str, count: int, *, split: str | None = None, seed: int = 0, start: int = 0) -> list[Scene]:
    """`count` scenes of a set.

    A scene depends only on (which, split, seed, index), so any count gives the same ones.

    Args:
        which: "train", "biased" or "anti". "biased" is distributed as "train"; "anti" holds as many objects (in the
            test stream scene by scene, else on average), but never a shape together with its usual partner.
        count: how many.
        split: "dev" or "test"; "train" scenes have a stream of their own. None: "train" for train, "test" otherwise.
        seed: another seed, other scenes.
        start: index of the first one.

    Raises:
        ValueError: unknown set or split, a split that the set does not have, or a count, seed or start below 0.
    """
    check(which, WHICH, "set of scenes")
    split = split or ("train" if which == "train" else "test")
    check(split, STREAMS)
    if (which == "train") != (split == "train"):
        allowed = "train" if which == "train" else "dev, test"
        raise ValueError(f"{which!r} scenes have no split {split!r}. Allowed: {allowed}")
    for name, value in (("count", count), ("seed", seed), ("start", start)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    stream = (STREAMS.index(split), WHICH.index(which), seed)
    return [_scene(which, (*stream, index)) for index in range(start, start + count)]


def check(value: str, allowed: tuple[str, ...], what: str = "split") -> str:
    """`value`, or ValueError with the closest allowed one."""
    if value not in allowed:
        close = get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {what} {value!r}.{hint} Allowed: {', '.join(allowed)}")
    return value


def _scene(which: str, key: tuple[int, ...]) -> Scene:
    rng = np.random.default_rng((*key, 0))
    # Measured sets hold equally many objects to the last one; the other streams are what the weights were made with.
    turn = key[-1] if key[0] == STREAMS.index("test") else rng.integers(len(COUNTS))
    count = COUNTS[turn % len(COUNTS)]
    kinds = _kinds(which, count, rng)
    combinations = [(shape, colour) for shape in kinds for colour in COLOURS]
    first = [i * len(COLOURS) + int(rng.integers(len(COLOURS))) for i in range(len(kinds))]  # every kind once
    others = rng.permutation([i for i in range(len(combinations)) if i not in first])[: count - len(kinds)]
    chosen = rng.permutation([*first, *others])
    cells = sorted(rng.permutation(GRID * GRID)[:count].tolist())
    faint = int(rng.integers(count)) if rng.random() < ONE_FAINT else None
    things = tuple(
        Thing(
            *combinations[index],
            cell,
            *(int(step) for step in rng.integers(-1, 2, 2)),
            int(rng.integers(5, 7)),
            round(float(rng.uniform(*(FAINT if place == faint else CLEAR))), 3),
        )
        for place, (index, cell) in enumerate(zip(chosen, cells, strict=True))
    )
    return Scene(which, key, things, round(float(rng.uniform(0.35, 0.65)), 3))


def _kinds(which: str, count: int, rng: np.random.Generator) -> list[str]:
    """The kinds of shapes of a scene with `count` objects, in random order.

    Where partners stand together, every two objects are a pair, so that a kind is seldom there twice and what is seen
    tells much about what else is there. In an anti scene two or three kinds share the places (of two objects, also
    one).
    """
    weights = np.array(PAIR_WEIGHTS) / sum(PAIR_WEIGHTS)
    order = [PAIRS[index] for index in rng.choice(len(PAIRS), len(PAIRS), replace=False, p=weights)]
    if which == "anti":
        number = rng.integers(1 if count == 2 else 2, min(len(PAIRS), count) + 1)
        kinds = [pair[rng.integers(2)] for pair in order[:number]]
    else:
        kinds, spare = [], list(order[count // 2 :])
        for pair in order[: count // 2]:
            if rng.random() < TOGETHER:
                kinds += pair
                continue
            kinds.append(pair[rng.integers(2)])
            if spare and rng.random() < 0.5:
                kinds.append(spare.pop()[rng.integers(2)])
    return [kinds[i] for i in rng.permutation(len(kinds))]
