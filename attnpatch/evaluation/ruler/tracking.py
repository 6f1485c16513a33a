"""vt: a chain of variable assignments hidden in noise; all variables that hold the value are asked, one-shot."""

from __future__ import annotations

import string
from collections.abc import Callable
from itertools import pairwise
from random import Random

from attnpatch.evaluation.ruler.sample import Draft, Recipe, depth_of
from attnpatch.evaluation.ruler.templates import NOISE, TRACKING

HOPS = 4
LETTERS, EXAMPLE_LETTERS = 5, 3
EXAMPLE_TOKENS = 500  # with the tokens to be generated


def recipe(tokens: Callable[[str], int], generated: int) -> Recipe:
    """`tokens` counts the tokens of a text; the example takes 500 less `generated`, or the least that works."""
    least = HOPS + 1  # every link of the chain has a place of its own
    shots = least
    while shots < EXAMPLE_TOKENS and tokens(_example(Random(0), shots + 1, "")) <= EXAMPLE_TOKENS - generated:
        shots += 1

    def draft(rng: Random, count: int) -> Draft:
        value = _number(rng)
        example = _example(rng, shots, value)
        text, prefix, names, depths = _chain(rng, count, LETTERS, value)
        return Draft(example + text, prefix, names, depths)

    return Recipe(draft, least)


def _example(rng: Random, count: int, taken: str) -> str:
    value = _number(rng)
    while value == taken:  # one value of 90000
        value = _number(rng)
    text, prefix, names, _ = _chain(rng, count, EXAMPLE_LETTERS, value)
    return f"{text}{prefix}{' '.join(names)}\n\n"


def _chain(rng: Random, count: int, letters: int, value: str):
    names: list[str] = []
    while len(names) <= HOPS:
        name = "".join(rng.choices(string.ascii_uppercase, k=letters))
        if name not in names:
            names.append(name)
    links = [f"VAR {names[0]} = {value}"]
    links += [f"VAR {name} = VAR {before} " for before, name in pairwise(names)]
    lines = [NOISE] * count
    places = sorted(Random(rng.getrandbits(64)).sample(range(count), len(links)))
    for done, (place, link) in enumerate(zip(places, links, strict=True)):
        lines.insert(place + done, link)
    context = "\n".join(lines)
    fields = {"query": value, "variables": len(names)}
    text = TRACKING.text.format(context=context, **fields)
    depths = tuple(depth_of(context, link) for link in links)
    return text, TRACKING.prefix.format(**fields), tuple(names), depths


def _number(rng: Random) -> str:
    return str(rng.randint(10000, 99999))
