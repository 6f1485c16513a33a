"""Filler: a small grammar that a local window predicts well, and people whose surnames need long range."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from attnpatch.sandbox.text import vocabulary as v

# Every adjective has two animals, every thing two colours, every place one preposition: enough structure
# for a low local perplexity, enough choice that it is not zero.
LONGEST_SENTENCE = 11
_PREPOSITION = {place: ("in" if i % 2 else "at") for i, place in enumerate(v.PLACES)}


@dataclass
class People:
    """The persons of one document. A surname is drawn once; every later mention must recall it."""

    names: list[tuple[str, str]]
    last_seen: dict[str, int] = field(default_factory=dict)

    @classmethod
    def draw(cls, rng: Random, count: int) -> People:
        first = rng.sample(v.FIRST_NAMES, count)
        return cls(list(zip(first, (rng.choice(v.LAST_NAMES) for _ in first), strict=True)))


@dataclass
class Sentence:
    """Tokens of one filler sentence. `surname`: index of a surname token; `first`: the name before it."""

    tokens: list[int]
    surname: int | None = None
    first: str | None = None


def sentence(rng: Random, people: People | None = None, people_rate: float = 0.0) -> Sentence:
    """One sentence of 7 to 11 tokens, about a person with probability `people_rate`."""
    if people is not None and rng.random() < people_rate:
        first, last = rng.choice(people.names)
        words = [first, last, *_predicate(rng)]
        return Sentence([v.ID[word] for word in words], surname=1, first=first)
    adjective = rng.randrange(len(v.ADJECTIVES))
    animal = v.ANIMALS[(adjective + rng.randrange(2)) % len(v.ANIMALS)]
    return Sentence([v.ID[word] for word in ["the", v.ADJECTIVES[adjective], animal, *_predicate(rng)]])


def _predicate(rng: Random) -> list[str]:
    colour = rng.randrange(len(v.COLOURS))
    thing = v.THINGS[(colour + rng.randrange(2)) % len(v.THINGS)]
    words = [rng.choice(v.VERBS), "a", v.COLOURS[colour], thing]
    if rng.random() < 0.5:
        place = rng.choice(v.PLACES)
        words += [_PREPOSITION[place], "the", place]
    return [*words, "."]


def sentences(rng: Random, tokens: int, people: People | None = None, people_rate: float = 0.0) -> list[Sentence]:
    """Sentences of exactly `tokens` tokens together; the first may be a short `yes yes .` that fills up."""
    out: list[Sentence] = []
    left = tokens
    while True:
        candidate = sentence(rng, people, people_rate)
        if len(candidate.tokens) > left:
            break
        out.append(candidate)
        left -= len(candidate.tokens)
    if left:
        out.insert(0, Sentence([v.ID["yes"]] * (left - 1) + [v.ID["."]]))
    return out
