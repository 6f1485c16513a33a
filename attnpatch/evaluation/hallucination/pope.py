"""POPE (Li et al., arXiv 2305.10355): is an object in the picture? Yes is the positive class.

Three splits draw the absent objects at random, from the most frequent ones, and from those that usually come along
with what is there. With several splits every metric is the mean over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attnpatch.evaluation.hallucination.answers import LENIENT, OFFICIAL, lenient_answer, parser, pope_answer
from attnpatch.evaluation.hallucination.columns import (
    MEAN,
    UNIT,
    Column,
    class_columns,
    column,
    groups_of,
    of_groups,
    plain,
)
from attnpatch.evaluation.hallucination.problems import STOP
from attnpatch.evaluation.hallucination.questions import YES, Question, joined
from attnpatch.evaluation.task_metrics import value_of

PARSERS = {OFFICIAL: pope_answer, LENIENT: lenient_answer}
SPLITS = ("random", "popular", "adversarial")


def score(
    predictions: Mapping[Any, str] | Iterable[Mapping[str, Any]],
    references: Iterable[Question | Mapping[str, Any]],
    *,
    parse: str = OFFICIAL,
    on_bad: str = STOP,
) -> dict[str, Any]:
    """POPE's numbers, in percent (0 to 100).

    Args:
        predictions: `{question_id: answer}`, or rows with question_id and answer.
        references: questions, or rows with question_id, label and, for several splits, split.
        parse: "official", or "lenient": the first yes or no in any spelling; neither is wrong.
        on_bad: "stop" or "skip", for ids that are missing, unknown or there twice.

    Returns:
        accuracy, precision, recall, f1, yes_ratio (share of yes among the answers) and empty_rate; with several
        splits their means, and each as `f1 (random)`; `questions`, and `left_out` by on_bad. Where nothing was
        answered yes, precision and f1 are 0.

    Raises:
        UsageError: an unknown `parse`; with on_bad "stop", an id that does not match.
    """
    answers, questions, problems = joined(predictions, references, on_bad)
    strata = [question.group for question in questions]
    values = {name: value_of(one, strata) for name, one in columns(answers, questions, parse, beside=False).items()}
    return {**plain(values), "questions": len(questions), "left_out": problems.to_dict()}


def columns(
    texts: Sequence[str], questions: Sequence[Question], parse: str = OFFICIAL, *, beside: bool = True
) -> dict[str, Column]:
    """Every metric as sums and weights per question; `beside` adds accuracy and F1 by the lenient rule."""
    answers = list(map(parser(parse, PARSERS), texts))
    strata = {"strata": MEAN}
    found = class_columns(answers, questions, YES, **strata)
    for part in ("precision", "recall"):
        found[part + UNIT]["detail"] = True
    found["yes_ratio" + UNIT] = column([(answer == YES, 1) for answer in answers], "mean", neutral=True, **strata)
    splits = groups_of(questions)
    if len(splits) > 1:
        found |= of_groups(found, {split: (split,) for split in splits}, questions)
    found["empty_rate" + UNIT] = column([(not text.strip(), 1) for text in texts], lower=True, detail=True, **strata)
    if beside:
        other = class_columns(list(map(lenient_answer, texts)), questions, YES, detail=True, **strata)
        found |= {f"{name}{UNIT} (lenient)": other[name + UNIT] for name in ("accuracy", "f1")}
    return found
