"""AMBER's yes/no questions (Wang et al., arXiv 2311.07397). The positive class is the answer No.

Most of its questions ask for something that is not in the picture: a model that sees it says no.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attnpatch.evaluation.hallucination.answers import OFFICIAL, amber_answer, amber_exact, parser
from attnpatch.evaluation.hallucination.columns import CLASS, UNIT, Column, class_columns, column, of_groups, plain
from attnpatch.evaluation.hallucination.problems import STOP
from attnpatch.evaluation.hallucination.questions import NO, OTHER, Question, joined
from attnpatch.evaluation.task_metrics import value_of

FIRST_WORD = "first_word"
PARSERS = {FIRST_WORD: amber_answer, OFFICIAL: amber_exact}
GENERATIVE = "generative"
TYPES = {  # as the annotation file calls them; relations have two names there
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
ATTRIBUTES = ("state", "number", "action")
_EPSILON = {"existence": 1e-3}  # the official script adds 1e-4 to F1's denominator, and here ten times as much


def score(
    predictions: Mapping[Any, str] | Iterable[Mapping[str, Any]],
    references: Iterable[Question | Mapping[str, Any]],
    *,
    parse: str = FIRST_WORD,
    official_rounding: bool = False,
    on_bad: str = STOP,
) -> dict[str, Any]:
    """Accuracy over all answers and precision, recall, F1 for the answer No, in percent, together and per type.

    Args:
        predictions: `{id: answer}`, or rows with id and response.
        references: questions, or rows with id, type and truth.
        parse: "first_word" in any spelling, or "official": exactly `Yes` or `No`.
        official_rounding: round as the official script does, to 0.1, with F1 from rounded precision and recall.
        on_bad: "stop" or "skip", for ids that are missing, unknown or there twice.

    Returns:
        accuracy, precision, recall, f1, each also as `f1 (existence)`; other_rate: answers that are neither, which
        count as wrong; `questions`, and `left_out` by on_bad.

    Raises:
        UsageError: an unknown `parse`; with on_bad "stop", an id that does not match.
    """
    answers, questions, problems = joined(predictions, references, on_bad)
    questions = [typed(question) for question in questions]
    values = plain({name: value_of(one) for name, one in columns(answers, questions, parse).items()})
    if official_rounding:
        values = _rounded(values)
    return {**values, "questions": len(questions), "left_out": problems.to_dict()}


def typed(question: Question) -> Question:
    """The question with the short name of its type."""
    group = TYPES.get(question.group, question.group)
    return Question(question.id, question.image, question.text, question.label, group)


def columns(texts: Sequence[str], questions: Sequence[Question], parse: str = FIRST_WORD) -> dict[str, Column]:
    """Every metric as sums and weights per question, together and per type."""
    answers = list(map(parser(parse, PARSERS), texts))
    found = class_columns(answers, questions, NO)
    present = {question.group for question in questions}
    types = {name: (name,) for name in dict.fromkeys(TYPES.values())} | {"attribute": ATTRIBUTES}
    found |= of_groups(found, {name: own for name, own in types.items() if present & set(own)}, questions)
    other = [(answer == OTHER, 1) for answer in answers]
    return {**found, "other_rate" + UNIT: column(other, lower=True, detail=True)}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    values = {name: round(value, 1) for name, value in values.items()}
    for name in values:
        if name.startswith("f1"):
            kind = name.removeprefix("f1").strip(" ()")
            precision, recall = (values[name.replace("f1", part)] / 100 for part in CLASS[1:3])
            values[name] = round(200 * precision * recall / (precision + recall + _EPSILON.get(kind, 1e-4)), 1)
    return values
