"""The eight needle-in-a-haystack tasks: magic numbers, words or UUIDs hidden in noise, essays or other needles."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from random import Random

from attnpatch.evaluation.ruler import templates
from attnpatch.evaluation.ruler.material import Words
from attnpatch.evaluation.ruler.sample import Draft, Recipe, depth_of, listed, position

ESSAY_DEPTHS = tuple(round(100 * i / 39) / 100 for i in range(40))  # 40 points of 0 to 100 %
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_TRIES = 1000


@dataclass(frozen=True)
class Needles:
    """One configuration.

    haystack: "noise" (one line, repeated), "essay" (sentences of a text) or "needles" (lines of the same form).
    key, value: "numbers" (7 digits), "words" (adjective-noun) or "uuids". keys: keys hidden; values: values of each;
    queries: keys asked.
    """

    haystack: str
    key: str = "words"
    value: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1

    @property
    def single(self) -> bool:
        """One value is asked: it can be put at a chosen depth."""
        return self.queries * self.values == 1

    def recipe(self, words: Words | None, essay: list[str], depth: float | None) -> Recipe:
        """`essay` in words, for the essay haystack; `depth` (0 to 1) of the asked needle, None to draw it."""

        place = depth if self.single else None

        def draft(rng: Random, count: int) -> Draft:
            return self._draft(rng, count, words, essay, place)

        return Recipe(draft, least=max(self.keys, self.queries) * self.values, place=place)

    def _draft(self, rng: Random, count: int, words: Words | None, essay: list[str], depth: float | None) -> Draft:
        keys = _different(rng, self.key, words, max(self.keys, self.queries), ())
        values = _different(rng, self.value, words, len(keys) * self.values, keys)
        owned = [values[i * self.values : (i + 1) * self.values] for i in range(len(keys))]
        asked = rng.sample(range(len(keys)), self.queries)
        needles = [self._line(key, value) for key, own in zip(keys, owned, strict=True) for value in own]
        fixed = None if depth is None else asked[0]
        context = self._context(rng, count, needles, keys, words, essay, fixed, depth)

        template = templates.singular(templates.NEEDLES) if self.single else templates.NEEDLES
        fields = {"type": self.value[:-1] if self.single else self.value, "query": listed([keys[i] for i in asked])}
        references = tuple(value for i in asked for value in owned[i])
        depths = tuple(depth_of(context, self._line(keys[i], value)) for i in asked for value in owned[i])
        text = template.text.format(context=context, **fields)
        return Draft(text, template.prefix.format(**fields), references, depths)

    def _line(self, key: str, value: str) -> str:
        return templates.NEEDLE.format(type=self.value, key=key, value=value)

    def _context(self, rng, count, needles, keys, words, essay, fixed, depth) -> str:
        # Places are drawn from a stream of their own: how many draws they take depends on the count.
        places = Random(rng.getrandbits(64))
        if self.haystack == "essay":
            lines = _SENTENCE_END.split(" ".join(_first(essay, count)))
            at = [int(len(lines) * share) for share in places.sample(ESSAY_DEPTHS, len(needles))]
        else:
            lines = [templates.NOISE] * count if self.haystack == "noise" else self._others(rng, count, keys, words)
            at = places.sample(range(count), len(needles))
        if fixed is not None:
            at[fixed] = position(depth, len(lines))
        for place, needle in sorted(zip(at, needles, strict=True), reverse=True):
            lines.insert(place, needle)
        return (" " if self.haystack == "essay" else "\n").join(lines)

    def _others(self, rng: Random, count: int, keys: list[str], words: Words | None) -> list[str]:
        """Lines of the same form about other keys."""
        lines = []
        for _ in range(count):
            other = _different(rng, self.key, words, 1, keys)[0]
            lines.append(self._line(other, _random(rng, self.value, words)))
        return lines


def _random(rng: Random, kind: str, words: Words | None) -> str:
    if kind == "numbers":
        return str(rng.randint(10**6, 10**7 - 1))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return words.pair(rng)


def _different(rng: Random, kind: str, words: Words | None, count: int, taken) -> list[str]:
    """`count` different values that are not in `taken`."""
    found: list[str] = []
    for _ in range(_TRIES + count):
        if len(found) == count:
            return found
        one = _random(rng, kind, words)
        if one not in found and one not in taken:
            found.append(one)
    raise ValueError(f"the word list gives fewer than {count + len(taken)} different keys; use a longer --word-list")


def _first(essay: list[str], count: int) -> list[str]:
    """The first `count` words of a text that is repeated where it is too short."""
    return (essay * -(-count // len(essay)))[:count]
