"""Rows: facts woven into filler at chosen depths, to an exact length, with what scorer and trainer need."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from attnpatch.sandbox.text import vocabulary as v
from attnpatch.sandbox.text.filler import People, Sentence, sentences

FILLER_WEIGHT = 0.15


@dataclass
class Sample:
    """One row of text with its answers.

    Attributes:
        input_ids: exactly `length` token ids, `<bos>` first.
        answer_positions: indices p of the tokens to be predicted; teacher-forced scoring asks whether the
            argmax of the logits at p - 1 is `input_ids[p]`.
        weights: one training weight per token as a label: 0 unpredictable, 0.15 filler, 1 answers.
        meta: facts about the row. `depth` (0 = start of the prompt, 1 = just before the question), `gap`
            (tokens from a fact to its question), `kind`, and per task `candidates`, `long_range`, ...
    """

    input_ids: list[int]
    answer_positions: list[int]
    weights: list[float]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class Piece:
    """Words that stay together. `answers` are indices within the piece of the tokens to be predicted."""

    words: list[str]
    answers: tuple[int, ...] = ()
    known: tuple[int, ...] = ()  # predictable structure, weighted as filler


def weave(
    rng: Random,
    length: int,
    pieces: list[Piece],
    tail: list[Piece],
    *,
    slots: list[int] | None = None,
    depth: float | None = None,
    people: People | None = None,
    people_rate: float = 0.0,
) -> tuple[Sample, list[int], list[int]]:
    """`<bos>`, filler with `pieces` at sentence boundaries, then `tail`; `length` tokens in all.

    Boundaries are drawn at random (pieces keep no order), or given by `slots` (indices of boundaries,
    one per piece), or, for every piece, by `depth` in [0, 1].
    Returns the sample and the start of every piece and tail piece.
    """
    room = filler_room(length, pieces, tail)
    filler = sentences(rng, room, people, people_rate)
    if slots is None:
        last = len(filler)
        slots = [round(depth * last) if depth is not None else rng.randint(0, last) for _ in pieces]
    order = sorted(range(len(pieces)), key=lambda i: slots[i])
    sample = Sample([v.ID[v.BOS]], [], [0.0])
    starts = [0] * len(pieces)
    surnames: list[int] = []
    gaps: list[int] = []
    done = 0
    for index in range(len(filler) + 1):
        while done < len(order) and slots[order[done]] == index:
            starts[order[done]] = _add_piece(sample, pieces[order[done]])
            done += 1
        if index < len(filler):
            _add_sentence(sample, filler[index], people, surnames, gaps)
    tail_starts = [_add_piece(sample, piece) for piece in tail]
    if people is not None:
        mask = [False] * length
        for position in surnames:
            mask[position] = True
        sample.meta.update(long_range=mask, long_range_positions=surnames, long_range_gaps=gaps)
    return sample, starts, tail_starts


def filler_room(length: int, pieces: list[Piece], tail: list[Piece]) -> int:
    """Tokens left for filler; raises ValueError, naming the smallest length, if the facts do not fit."""
    smallest = 1 + sum(len(piece.words) for piece in (*pieces, *tail))
    if length < smallest:
        raise ValueError(f"length {length} is too small for these facts: use at least {smallest}")
    return length - smallest


def _add_piece(sample: Sample, piece: Piece) -> int:
    start = len(sample.input_ids)
    sample.input_ids += [v.ID[word] for word in piece.words]
    weights = [0.0] * len(piece.words)
    for index in piece.known:
        weights[index] = FILLER_WEIGHT
    for index in piece.answers:
        weights[index] = 1.0
        sample.answer_positions.append(start + index)
    sample.weights += weights
    return start


def _add_sentence(sample: Sample, part: Sentence, people: People | None, surnames: list[int], gaps: list[int]) -> None:
    start = len(sample.input_ids)
    weights = [FILLER_WEIGHT] * len(part.tokens)
    if people is not None and part.surname is not None and part.first is not None:
        position = start + part.surname
        seen = people.last_seen.get(part.first)
        if seen is None:
            weights[part.surname] = 0.0
        else:
            weights[part.surname] = 1.0
            surnames.append(position)
            gaps.append(position - seen)
        people.last_seen[part.first] = position
    sample.input_ids += part.tokens
    sample.weights += weights
