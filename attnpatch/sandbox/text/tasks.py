"""The sandbox tasks: one builder per task, `(rng, length, **options) -> Sample`."""

from __future__ import annotations

from random import Random

from attnpatch.sandbox.text import vocabulary as v
from attnpatch.sandbox.text.filler import LONGEST_SENTENCE, People
from attnpatch.sandbox.text.rows import Piece, Sample, filler_room, weave


def _unpack(values: list[float]) -> float | list[float]:
    return values[0] if len(values) == 1 else values


def _check(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be 1 to {most}, got {value}")


def needles(
    rng: Random,
    length: int,
    *,
    facts: int = 1,
    repeat: int = 1,
    asks: int | None = None,
    depth: float | None = None,
    people: int = 0,
) -> Sample:
    """`key K V ;` for `facts` keys, each stated `repeat` times; the tail asks all of them: `ask K V ;`,
    or `asks` times one drawn at random.

    meta: `depth` and `gap` (one number, or one per question), `keys`, `candidates` (the value ids).
    """
    _check("facts", facts, len(v.KEYS))
    keys = rng.sample(v.KEYS, facts)
    values = [rng.choice(v.NUMBERS) for _ in keys] if facts == 1 else rng.sample(v.NUMBERS, facts)
    stated = [Piece(["key", k, x, ";"], known=(3,)) for k, x in zip(keys, values, strict=True)]
    asked = rng.sample(range(facts), facts) if asks is None else [rng.randrange(facts) for _ in range(asks)]
    tail = [Piece(["ask", keys[i], values[i], ";"], answers=(2,), known=(3,)) for i in asked]
    tail[-1] = Piece(tail[-1].words[:3], answers=(2,))
    crowd = People.draw(rng, people) if people else None
    sample, starts, tail_starts = weave(
        rng, length, stated * repeat, tail, depth=depth, people=crowd, people_rate=0.2 if people else 0.0
    )
    fact_starts = [[starts[i + r * facts] for r in range(repeat)] for i in asked]
    question = tail_starts[0]
    sample.meta.update(
        kind="needles" if repeat == 1 else "repeated",
        keys=[keys[i] for i in asked],
        candidates=sorted(v.ID[x] for x in values),
        depth=_unpack([(max(s) - 1) / max(1, question - 5) for s in fact_starts]),
        gap=_unpack([t - max(s) for s, t in zip(fact_starts, tail_starts, strict=True)]),
    )
    return sample


def mqar(rng: Random, length: int, *, pairs: int | None = None, power: float = 0.01) -> Sample:
    """Multi-query associative recall (Zoology, arXiv 2312.04927), as text.

    All pairs `key K V ;` come first, then filler in which `ask K V ;` repeats every key once, at a slot (a
    sentence boundary) drawn without replacement with p(i) ~ power * i^(power - 1): most questions soon, a few late.
    meta: `pairs`, `candidates` (the value ids), per question `gap` (to the stated key)
    and `depth`, `chance` = 1 / pairs.
    """
    pairs = pairs if pairs is not None else max(4, min(64, length // 32))
    _check("pairs", pairs, len(v.KEYS))
    keys, values = rng.sample(v.KEYS, pairs), rng.sample(v.NUMBERS, pairs)
    facts = [Piece(["key", k, x, ";"], known=(3,)) for k, x in zip(keys, values, strict=True)]
    asks = [Piece(["ask", k, x, ";"], answers=(2,), known=(3,)) for k, x in zip(keys, values, strict=True)]
    room = filler_room(length, facts, asks)
    space = room // LONGEST_SENTENCE  # this many boundaries exist for sure
    if space < pairs:
        smallest = length - room + LONGEST_SENTENCE * pairs
        raise ValueError(f"length {length} is too small for {pairs} pairs: use at least {smallest}")
    weight = [power * (i + 1) ** (power - 1) for i in range(space)]
    # Exponential keys give a weighted draw without replacement (Efraimidis and Spirakis).
    slots = sorted(range(space), key=lambda i: -(rng.random() ** (1 / weight[i])))[:pairs]
    sample, starts, _ = weave(rng, length, facts + asks, [], slots=[0] * pairs + slots)
    gaps = [ask - fact for fact, ask in zip(starts[:pairs], starts[pairs:], strict=True)]
    order = sorted(range(pairs), key=lambda i: starts[pairs + i])
    sample.meta.update(
        kind="mqar",
        pairs=pairs,
        keys=[keys[i] for i in order],
        candidates=sorted(v.ID[x] for x in values),
        gap=[gaps[i] for i in order],
        depth=[(starts[i] - 1) / length for i in order],
        chance=1 / pairs,
    )
    return sample


def chain(rng: Random, length: int, *, hops: int = 3, chains: int = 3) -> Sample:
    """Variable chains `let A 17 ;`, `let B A ;`, ...; the tail asks for one and spells it: `ask C B A 17`.

    The links of all `chains` chains are shuffled through the filler.
    meta: `hops`, `links` (name, target), `depth` and `gap` of each hop.
    """
    _check("hops", hops, len(v.KEYS))
    _check("chains", chains, len(v.KEYS) // hops)
    names = rng.sample(v.KEYS, hops * chains)
    values = rng.sample(v.NUMBERS, chains)
    facts, links = [], []
    for c in range(chains):
        own = names[c * hops : (c + 1) * hops]
        for name, target in zip(own, [values[c], *own], strict=False):
            links.append((name, target))
            facts.append(Piece(["let", name, target, ";"], known=(3,)))
    spelled = [*names[:hops][::-1], values[0]]
    tail = [Piece(["ask", *spelled], answers=tuple(range(2, hops + 2)))]
    sample, starts, tail_starts = weave(rng, length, facts, tail)
    stated = [starts[i] for i in reversed(range(hops))]
    sample.meta.update(
        kind="chain",
        hops=hops,
        links=links,
        depth=[(s - 1) / max(1, tail_starts[0] - 5) for s in stated],
        gap=[tail_starts[0] + h - s for h, s in enumerate(stated)],
    )
    return sample


def _quoted(rng: Random, length: int, mark: str, words: list[str], depth: float | None) -> Sample:
    fact = Piece([mark, *words, ";"], known=(0,))
    tail = Piece([mark, *words], answers=tuple(range(1, len(words) + 1)))
    sample, starts, tail_starts = weave(rng, length, [fact], [tail], depth=depth)
    sample.meta.update(
        kind=mark,
        words=words,
        gap=tail_starts[0] - starts[0],
        depth=(starts[0] - 1) / max(1, tail_starts[0] - len(fact.words) - 1),
    )
    return sample


def copy(rng: Random, length: int, *, words: int = 16, depth: float | None = None) -> Sample:
    """`copy W1 ... Wn ;` once, and again at the end, n different words. meta: `words`, `depth`, `gap`."""
    _check("words", words, len(v.KEYS))
    return _quoted(rng, length, "copy", rng.sample(v.KEYS, words), depth)


def passkey(rng: Random, length: int, *, digits: int = 4, depth: float | None = None) -> Sample:
    """`passkey 4 7 1 9 ;` once, and again at the end; the digits differ. meta: `words`, `depth`, `gap`."""
    _check("digits", digits, 10)
    return _quoted(rng, length, "passkey", rng.sample(v.NUMBERS[:10], digits), depth)


def local(rng: Random, length: int, *, share: float = 0.5) -> Sample:
    """What needs a few tokens only: `3 plus 4 is 7 ;`, `count 17 18 19 20 ;`, `cow says moo ;`, in filler."""
    pieces = []
    for _ in range(max(1, round((length - 1) * share / 6))):
        kind = rng.randrange(4)
        if kind == 0:
            a, b = rng.randrange(10), rng.randrange(10)
            words, answers = [str(a), "plus", str(b), "is", str(a + b), ";"], (4,)
        elif kind == 1:
            a, b = sorted((rng.randrange(10), rng.randrange(10)), reverse=True)
            words, answers = [str(a), "minus", str(b), "is", str(a - b), ";"], (4,)
        elif kind == 2:
            start = rng.randrange(97)
            words, answers = ["count", *(str(start + i) for i in range(4)), ";"], (2, 3, 4)
        else:
            animal = rng.randrange(len(v.ANIMALS))
            words, answers = [v.ANIMALS[animal], "says", v.SOUNDS[animal], ";"], (2,)
        pieces.append(Piece(words, answers=answers, known=(len(words) - 1,)))
    sample, _, _ = weave(rng, length, pieces, [])
    sample.meta.update(kind="local", items=len(pieces))
    return sample


def document(rng: Random, length: int, *, people: int | None = None) -> Sample:
    """A story about `people` persons, to be scored by perplexity.

    A surname is drawn once per document, so every later mention of a person needs the earlier one, on average
    length / 4 tokens back. `answer_positions` are all tokens but the first mentions' surnames.
    meta: `long_range` (mask of the later surnames), `long_range_positions`, `long_range_gaps` (tokens since the
    last mention).
    """
    people = people if people is not None else max(2, min(len(v.FIRST_NAMES), length // 100))
    _check("people", people, len(v.FIRST_NAMES))
    sample, _, _ = weave(rng, length, [], [], people=People.draw(rng, people), people_rate=0.3)
    sample.answer_positions = [i for i, weight in enumerate(sample.weights) if weight > 0]
    sample.meta.update(kind="perplexity", people=people)
    return sample
