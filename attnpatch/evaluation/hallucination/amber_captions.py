"""AMBER's captions: nouns that are neither in the picture nor close to something that is.

Nouns and the similarity of two words come from outside, so that the rules themselves need no language model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attnpatch.evaluation.hallucination.columns import UNIT, Column, column, plain
from attnpatch.evaluation.hallucination.problems import STOP, Problems
from attnpatch.evaluation.task_metrics import value_of

THRESHOLD = 0.8
Similarity = Callable[[str, str], float]


@dataclass(frozen=True)
class Annotation:
    """One picture. truth: objects that are there; hallu: objects that people tend to imagine."""

    truth: tuple[str, ...]
    hallu: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lexicon:
    """association: words that stand for each object; safe: words that are never hallucinated."""

    association: Mapping[str, Sequence[str]]
    safe: Collection[str] = ()

    @cached_property
    def words(self) -> set[str]:
        """Every noun that counts."""
        return {*self.association, *(word for words in self.association.values() for word in words)}

    def group(self, objects: Sequence[str]) -> list[tuple[str, str]]:
        """(word, object) for all words that stand for one of `objects`: associations first, as AMBER looks them up."""
        found = [(word, one) for one in objects for word in self.association.get(one, ())]
        return found + [(one, one) for one in objects]


@dataclass(frozen=True)
class Found:
    """What one caption got: nouns that count, how many are hallucinated, objects covered, imagined ones named."""

    nouns: int
    wrong: int
    covered: int
    imagined: int


def score(
    nouns: Mapping[Any, Sequence[str]],
    references: Mapping[Any, Annotation],
    lexicon: Lexicon,
    similarity: Similarity,
    *,
    threshold: float = THRESHOLD,
    on_bad: str = STOP,
) -> dict[str, Any]:
    """AMBER's numbers over all captions, in percent (0 to 100).

    Args:
        nouns: `{id: lemmatised nouns of its caption}`, repeats included.
        references: what is in each picture.
        lexicon: AMBER's relation.json and safe_words.txt.
        similarity: of two words; above `threshold` they count as one.
        on_bad: "stop" or "skip", for ids that are missing or unknown.

    Returns:
        chair: hallucinated nouns among those that count; cover: objects named among those that are there; hal:
        captions with a hallucinated noun; cog: imagined objects named among those listed; `captions`, `left_out`.

    Raises:
        UsageError: with on_bad "stop", an id that does not match.
    """
    problems = Problems(on_bad)
    given, known = ({str(key): value for key, value in one.items()} for one in (nouns, references))
    for name in sorted(given.keys() ^ known.keys()):
        problems.add(f"caption {name!r}", "it has no annotation" if name in given else "it has no prediction")
    shared = [name for name in known if name in given]
    found = [judge(given[name], known[name], lexicon, similarity, threshold) for name in shared]
    values = {name: value_of(one) for name, one in columns(found, [known[name] for name in shared]).items()}
    return {**plain(values), "captions": len(shared), "left_out": problems.to_dict()}


def judge(
    nouns: Iterable[str], annotation: Annotation, lexicon: Lexicon, similarity: Similarity,
    threshold: float = THRESHOLD,
) -> Found:  # fmt: skip
    """Go through the nouns of one caption.

    A noun is right if it is a safe word, stands for an object that is there, or is similar to such a word. The first
    word that fits decides which object it covers.
    """
    safe, imagined = lexicon.group(annotation.truth), lexicon.group(annotation.hallu)
    kept = [noun for noun in nouns if noun in lexicon.words]
    covered, named, wrong = set(), set(), 0

    def close(noun: str, group: list[tuple[str, str]]) -> str | None:
        return next((one for word, one in group if similarity(noun, word) > threshold), None)

    for noun in kept:
        if noun in lexicon.safe:
            continue
        there = next((one for word, one in safe if word == noun), None)
        if there is not None:
            covered.add(there)
            continue
        named |= {next((one for word, one in imagined if word == noun), None), close(noun, imagined)}
        there = close(noun, safe)
        covered.add(there)
        wrong += there is None
    return Found(len(kept), wrong, len(covered - {None}), len(named - {None}))


def columns(found: Sequence[Found], annotations: Sequence[Annotation]) -> dict[str, Column]:
    """Every metric as sums and weights per caption."""
    pairs = list(zip(found, annotations, strict=True))
    return {
        "chair" + UNIT: column([(one.wrong, one.nouns) for one in found], lower=True),
        "cover" + UNIT: column([(one.covered, len(own.truth)) for one, own in pairs]),
        "hal" + UNIT: column([(one.wrong > 0, 1) for one in found], "mean", lower=True),
        "cog" + UNIT: column([(one.imagined, len(own.hallu)) for one, own in pairs], lower=True),
    }
