"""MME (Fu et al., arXiv 2306.13394): two yes/no questions per picture, points per subtask.

A subtask gives 100 times the share of right answers plus 100 times the share of pictures with both right, 200 at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attnpatch.evaluation.hallucination.answers import mme_answer
from attnpatch.evaluation.hallucination.columns import SUM, UNIT, Column, column, groups_of, plain
from attnpatch.evaluation.hallucination.problems import STOP
from attnpatch.evaluation.hallucination.questions import OTHER, Question, joined
from attnpatch.evaluation.task_metrics import value_of

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
HALLUCINATION = ("existence", "count", "position", "color")
TOTALS = {"perception": PERCEPTION, "cognition": COGNITION, "hallucination": HALLUCINATION}
SUBTASKS = PERCEPTION + COGNITION


def score(
    predictions: Mapping[Any, str] | Iterable[Mapping[str, Any]],
    references: Iterable[Question | Mapping[str, Any]],
    *,
    on_bad: str = STOP,
) -> dict[str, Any]:
    """MME's points.

    Args:
        predictions: `{question_id: answer}`, or rows with question_id and answer.
        references: questions, or rows with question_id, image, category (the subtask) and answer (yes or no).
        on_bad: "stop" or "skip", for ids that are missing, unknown or there twice.

    Returns:
        points per subtask (0 to 200) and summed over perception (to 2000), cognition (to 800) and the hallucination
        subset (to 800), as far as their subtasks were asked; other_rate (%); `incomplete`: pictures with one answered
        question, which do not count; `questions`, and `left_out` by on_bad.

    Raises:
        UsageError: with on_bad "stop", an id that does not match.
    """
    answers, questions, problems = joined(predictions, references, on_bad)
    strata = [question.group for question in questions]
    values = {name: value_of(one, strata) for name, one in columns(answers, questions).items()}
    return {
        **plain(values),
        "incomplete": incomplete(questions),
        "questions": len(questions),
        "left_out": problems.to_dict(),
    }


def incomplete(questions: Iterable[Question]) -> int:
    """Pictures of which only one question is there."""
    return sum(count != 2 for count in _per_image(questions).values())


def columns(texts: Sequence[str], questions: Sequence[Question]) -> dict[str, Column]:
    """Points per question, so that they add up per picture: both questions of a picture weigh one half."""
    answers = list(map(mme_answer, texts))
    right = [answer == question.label for answer, question in zip(answers, questions, strict=True)]
    asked, solved = _per_image(questions), Counter()
    for fine, question in zip(right, questions, strict=True):
        solved[_image(question)] += fine
    pairs = []
    for fine, question in zip(right, questions, strict=True):
        whole = asked[_image(question)] == 2
        both = solved[_image(question)] == 2
        pairs.append((50.0 * fine + 50.0 * both, 0.5) if whole else (0.0, 0.0))
    present = groups_of(questions)
    found: dict[str, Column] = {}
    for name, parts in TOTALS.items():
        within = [part for part in parts if part in present]
        if within:
            found[name] = column(pairs, scale=1, strata=SUM, within=within)
    for part in present:
        found[part] = column(pairs, scale=1, strata=SUM, within=[part], detail=True)
    found["other_rate" + UNIT] = column([(answer == OTHER, 1) for answer in answers], lower=True, detail=True)
    return found


def _image(question: Question) -> tuple[str, str]:
    return question.group, question.image  # two subtasks may use one file name for different pictures


def _per_image(questions: Iterable[Question]) -> Counter:
    return Counter(map(_image, questions))
