"""CHAIR (Rohrbach et al., arXiv 1809.02156): objects that a caption names and the picture does not hold.

Longer captions name more: recall and length stand beside it. Numbers compare with papers only where the official
list of synonyms is given; the table that ships here is our own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from attnpatch.evaluation.hallucination.columns import UNIT, Column, column, plain
from attnpatch.evaluation.hallucination.objects import Objects, own_objects
from attnpatch.evaluation.hallucination.problems import STOP, Problems
from attnpatch.evaluation.hallucination.questions import answers_by_id
from attnpatch.evaluation.task_metrics import value_of


def score(
    predictions: Mapping[Any, str] | Iterable[Mapping[str, Any]],
    references: Mapping[Any, Iterable[str]],
    *,
    objects: Objects | None = None,
    on_bad: str = STOP,
) -> dict[str, Any]:
    """CHAIR's numbers over all captions.

    Args:
        predictions: `{image id: caption}`, or rows with id and text.
        references: `{image id: names of the objects that are there}`, each name once is enough; synonyms may stand
            for them.
        objects: the table of objects; ours if None.
        on_bad: "stop" or "skip", for ids that are missing or unknown.

    Returns:
        chair_i: hallucinated mentions among all mentions of objects, chair_s: captions with one or more, recall:
        objects named among those that are there, empty_rate, all in percent (0 to 100); length: mean words per
        caption; `captions`, and `left_out` by on_bad. Without any mention chair_i is 0.

    Raises:
        UsageError: with on_bad "stop", an id that does not match.
    """
    problems, objects = Problems(on_bad), objects or own_objects()[0]
    given, truth = answers_by_id(predictions, problems), {str(key): value for key, value in references.items()}
    for name in truth:
        if name not in given:
            problems.add(f"image {name!r}", "it has no caption among the predictions")
    for name in given:
        if name not in truth:
            problems.add(f"prediction {name!r}", "there is no image with this id")
    shared = [name for name in truth if name in given]
    known = [{objects.name(one) or one for one in truth[name]} for name in shared]
    found = columns([given[name] for name in shared], known, objects)
    values = plain({name: value_of(one) for name, one in found.items()})
    return {**values, "captions": len(shared), "left_out": problems.to_dict()}


def columns(texts: Sequence[str], truths: Sequence[Collection[str]], objects: Objects) -> dict[str, Column]:
    """Every metric as sums and weights per caption; `truths`: the objects of each picture, by their names."""
    named = [objects.mentions(text) for text in texts]
    wrong = [[one for one in own if one not in truth] for own, truth in zip(named, truths, strict=True)]
    pairs = list(zip(named, truths, strict=True))
    return {
        "chair_i" + UNIT: column([(len(bad), len(own)) for bad, own in zip(wrong, named, strict=True)], lower=True),
        "chair_s" + UNIT: column([(bool(bad), 1) for bad in wrong], "mean", lower=True),
        "recall" + UNIT: column([(len(set(own) & set(truth)), len(set(truth))) for own, truth in pairs]),
        "length": column([(len(text.split()), 1) for text in texts], "mean", scale=1, neutral=True),
        "empty_rate" + UNIT: column([(not text.strip(), 1) for text in texts], "mean", lower=True, detail=True),
    }
