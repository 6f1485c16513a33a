"""Perplexity along a document: equal bins of positions, in each a stretch of tokens at its end."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from attnpatch.evaluation.tasks.base import Document

POSITIONS = 8  # bins
STRETCH = 128  # scored tokens per bin: logits of a large vocabulary at every position would not fit
SLICE = "bin {}"


def by_position(document: Document) -> Document:
    """The same text with answers in every bin of positions, and one slice a bin.

    Raises:
        ValueError: fewer tokens than bins.
    """
    length = len(document.input_ids)
    if length <= POSITIONS:
        raise ValueError(
            f"length {length} is too small for {POSITIONS} bins of positions: use at least {POSITIONS + 1}"
        )
    answers: list[int] = []
    slices = {}
    for index, (start, stop) in enumerate(position_bins(length)):
        first = max(start, stop - STRETCH)
        slices[SLICE.format(index)] = list(range(len(answers), len(answers) + stop - first))
        answers += range(first, stop)
    return replace(document, answers=tuple(answers), meta={"slices": slices})


def position_bins(length: int) -> list[tuple[int, int]]:
    """(start, stop) of each bin; the first token, which nothing predicts, is in none."""
    edges = [1 + (length - 1) * index // POSITIONS for index in range(POSITIONS + 1)]
    return list(pairwise(edges))
