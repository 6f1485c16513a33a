"""Recall in plain text for any tokenizer: facts woven into filler, asked later. Documents are built token by token.

The text version of associative recall follows Zoology (arXiv 2312.04927), words in place of synthetic ids. Scores on
these prompts have no published reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from attnpatch.evaluation.tasks.language import Language
from attnpatch.evaluation.tasks.prose import sentence


@dataclass
class Piece:
    """Tokens that stay together; `answers` are indices within the piece of the tokens to be predicted."""

    ids: list[int]
    answers: list[int] = field(default_factory=list)


def _pairs(rng: Random, language: Language, count: int) -> tuple[list[int], list[int]]:
    """`count` different keys and as many different values, from disjoint halves of the words."""
    words = language.words[: len(language.words) // 2] if not language.speaks_english else language.words
    half = len(words) // 2
    if count > half:
        raise ValueError(f"the tokenizer has {len(words)} single-token words, too few for {count} pairs of words")
    return rng.sample(words[:half], count), rng.sample(words[half:], count)


def _fact(language: Language, key: int, value: int) -> Piece:
    return Piece(language.piece(" The code of", [key], " is", [value], "."))


def _question(language: Language, key: int, value: int) -> Piece:
    before = language.piece(" The code of", [key], " is")
    ids = [*before, *language.piece([value])]
    return Piece(ids, [len(ids) - 1])


def _weave(rng, language, length, pieces, tail, slots=None, depth=None):
    """Start tokens, filler with `pieces` between its sentences, then `tail`; returns ids, starts, tail starts."""
    fixed = len(language.start) + sum(len(piece.ids) for piece in (*pieces, *tail))
    if length < fixed:
        raise ValueError(f"length {length} is too small for these facts: use at least {fixed}")
    filler = language.filler(rng, length - fixed)
    last = len(filler)
    if slots is None:
        slots = [rng.randint(0, last) if depth is None else round(depth * last) for _ in pieces]
    slots = [min(slot, last) for slot in slots]
    order = sorted(range(len(pieces)), key=lambda i: slots[i])
    ids, answers, starts = list(language.start), [], [0] * len(pieces)
    for index in range(last + 1):
        for i in (i for i in order if slots[i] == index):
            starts[i] = _add(ids, answers, pieces[i])
        if index < last:
            ids += filler[index]
    tail_starts = [_add(ids, answers, piece) for piece in tail]
    return ids, answers, starts, tail_starts


def _add(ids: list[int], answers: list[int], piece: Piece) -> int:
    start = len(ids)
    ids += piece.ids
    answers += [start + index for index in piece.answers]
    return start


def needles(rng: Random, language: Language, length: int, *, index: int, count: int = 1, depth: float | None = None):
    """`count` facts `The code of K is V.` in filler, at `depth` (0 to 1) or anywhere; the tail asks all of them."""
    keys, values = _pairs(rng, language, count)
    facts = [_fact(language, k, v) for k, v in zip(keys, values, strict=True)]
    asked = rng.sample(range(count), count)
    tail = []
    for i in asked:
        question = _question(language, keys[i], values[i])
        closing = language.piece(".") if i != asked[-1] else []
        tail.append(Piece([*question.ids, *closing], question.answers))
    ids, answers, starts, tail_starts = _weave(rng, language, length, facts, tail, depth=depth)
    where = [starts[i] for i in asked]
    meta = {
        "depth": [start / max(1, tail_starts[0]) for start in where],
        "gap": [t - s for s, t in zip(where, tail_starts, strict=True)],
        "candidates": sorted(values) if count > 1 else None,
    }
    return ids, answers, {key: value for key, value in meta.items() if value is not None}


def mqar(rng: Random, language: Language, length: int, *, index: int, power: float = 0.01):
    """All pairs first; then every key comes again once, soon after with a power law, and its value is asked."""
    cost = len(_fact(language, 0, 0).ids) + len(_question(language, 0, 0).ids) + 1
    count = max(4, min(16, length // (3 * cost)))
    keys, values = _pairs(rng, language, count)
    facts = [_fact(language, k, v) for k, v in zip(keys, values, strict=True)]
    asks = [_question(language, k, v) for k, v in zip(keys, values, strict=True)]
    for ask in asks:
        ask.ids += language.piece(".")
    fixed = len(language.start) + sum(len(piece.ids) for piece in (*facts, *asks))
    longest = max(len(language.piece(" " + sentence(Random(i)))) for i in range(20)) or 11
    space = max(1, (length - fixed) // (longest + 2))
    weight = [power * (i + 1) ** (power - 1) for i in range(space)]
    slots = sorted(range(space), key=lambda i: -(rng.random() ** (1 / weight[i])))[:count]
    slots += [space] * (count - len(slots))
    ids, answers, starts, _ = _weave(rng, language, length, facts + asks, [], slots=[0] * count + slots)
    order = sorted(range(count), key=lambda i: starts[count + i])
    gap = [starts[count + i] - starts[i] for i in order]
    return ids, answers, {"gap": gap, "depth": [starts[i] / length for i in order], "candidates": sorted(values)}


def copy(rng: Random, language: Language, length: int, *, index: int, words: int = 16):
    """`Remember: W1 ... Wn.` once, and the same words again at the end."""
    chosen = rng.sample(language.words, min(words, len(language.words) // 2))
    quoted, answers = language.piece(" Remember:"), []
    for word in chosen:
        quoted += language.piece([word])
        answers.append(len(quoted) - 1)
    if not language.speaks_english:  # without words for "remember" only the words after the first can be known
        answers = answers[1:]
    fact, tail = Piece([*quoted, *language.piece(".")]), Piece(quoted, answers)
    return _quoted(rng, language, length, fact, tail)


def passkey(rng: Random, language: Language, length: int, *, index: int, digits: int = 5, depth: float | None = None):
    """`The pass key is 48213.` once, at `depth` or anywhere, asked at the end; every token of the number counts."""
    if not language.speaks_english:
        raise ValueError("passkey needs a tokenizer that can write English and digits")
    number = language.encode(" " + "".join(rng.choice("0123456789") for _ in range(digits)))
    before = language.piece(" The pass key is")
    fact = Piece([*before, *number, *language.encode(".")])
    tail = Piece([*before, *number], list(range(len(before), len(before) + len(number))))
    return _quoted(rng, language, length, fact, tail, depth)


def _quoted(rng, language, length, fact: Piece, tail: Piece, depth: float | None = None):
    ids, answers, starts, tail_starts = _weave(rng, language, length, [fact], [tail], depth=depth)
    gap = tail_starts[0] - starts[0]
    return ids, answers, {"depth": starts[0] / max(1, tail_starts[0]), "gap": gap}
