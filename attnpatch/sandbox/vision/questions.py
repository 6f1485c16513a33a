"""POPE questions about a scene: is a shape there? As many with the answer yes as with no."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnpatch.sandbox.vision.vocabulary import ASK, PARTNERS, SHAPES

SPLITS = ("random", "popular", "adversarial")
MOST = 3  # positive questions per scene, as in POPE


@dataclass(frozen=True)
class Question:
    """A yes/no question: the prompt, the shape it asks for, and whether that is there."""

    text: str
    shape: str
    answer: bool


def questions(present: tuple[str, ...], split: str, rng: np.random.Generator) -> tuple[Question, ...]:
    """Up to three shapes that are there and as many that are not, in random order.

    The absent ones are drawn at random ("random"), or are the most frequent shapes of the training scenes ("popular"),
    or the usual partners of what is present, then the most frequent ones ("adversarial").
    """
    absent = [shape for shape in SHAPES if shape not in present]  # SHAPES is in order of frequency
    number = min(len(present), len(absent), MOST)
    if split == "random":
        absent = [absent[i] for i in rng.permutation(len(absent))]
    elif split == "adversarial":
        absent.sort(key=lambda shape: PARTNERS[shape] not in present)
    asked = [(present[i], True) for i in rng.permutation(len(present))[:number]]
    asked += [(shape, False) for shape in absent[:number]]
    return tuple(Question(ASK[0].format(*asked[i][:1]), *asked[i]) for i in rng.permutation(len(asked)))
