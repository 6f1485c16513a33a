"""A yes/no question about a picture, and how answers find their questions: by id, never by order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attnpatch.evaluation.hallucination.problems import STOP, Problems

YES, NO, OTHER = "yes", "no", "other"
GROUPS = ("group", "split", "category", "type")  # how files call the part of a benchmark a question belongs to
ANSWERS = ("answer", "text", "prediction", "response")  # and what was answered


@dataclass(frozen=True)
class Question:
    """One question. label: "yes" or "no". group: the split, subtask or type that it is scored with."""

    id: str
    image: str
    text: str
    label: str
    group: str = ""


def as_question(row: Question | Mapping[str, Any]) -> Question:
    """A question from a row with question_id (or id), label (or answer, truth) and, if there are several, its group.

    Raises:
        ValueError: the id is missing, or the label is neither yes nor no.
    """
    if isinstance(row, Question):
        return row
    name = row.get("question_id", row.get("id"))
    if name is None:
        raise ValueError("it has no question_id")
    label = row.get("label", row.get("truth", row.get("answer")))
    if not isinstance(label, str) or label.strip().lower() not in (YES, NO):
        raise ValueError(f"its label is {label!r}, not yes or no")
    group = next((str(row[key]) for key in GROUPS if row.get(key) is not None), "")
    text = str(row.get("text", row.get("question", "")))
    return Question(str(name), str(row.get("image", "")), text, label.strip().lower(), group)


def answers_by_id(predictions: Mapping[Any, str] | Iterable[Mapping[str, Any]], problems: Problems) -> dict[str, str]:
    """`{id: answer}` from a mapping, or from rows with question_id (or id) and answer (or text, response)."""
    if isinstance(predictions, Mapping):
        return {str(key): str(value) for key, value in predictions.items()}
    found: dict[str, str] = {}
    for number, row in enumerate(predictions, 1):
        name = str(row.get("question_id", row.get("id")))
        answer = next((row[key] for key in ANSWERS if isinstance(row.get(key), str)), None)
        if name in found:
            problems.add(f"prediction {number}", f"question {name!r} has been answered before")
        elif answer is None:
            problems.add(f"prediction {number}", f"it holds no text under {', '.join(ANSWERS)}")
        else:
            found[name] = answer
    return found


def joined(
    predictions: Mapping[Any, str] | Iterable[Mapping[str, Any]],
    references: Iterable[Question | Mapping[str, Any]],
    on_bad: str = STOP,
) -> tuple[list[str], list[Question], Problems]:
    """Answers and questions that belong together, in the order of the references, and what was left out.

    Raises:
        UsageError: with on_bad "stop", a question without an answer, an answer without a question, or one twice.
    """
    problems = Problems(on_bad)
    given = answers_by_id(predictions, problems)
    answers, questions, seen = [], [], set()
    for number, row in enumerate(references, 1):
        try:
            question = as_question(row)
        except ValueError as error:
            problems.add(f"reference {number}", str(error))
            continue
        if question.id in seen:
            problems.add(f"reference {number}", f"question {question.id!r} stands there twice")
        elif question.id not in given:
            problems.add(f"question {question.id!r}", "it has no answer among the predictions")
        else:
            answers.append(given[question.id])
            questions.append(question)
        seen.add(question.id)
    for name in given:
        if name not in seen:
            problems.add(f"prediction {name!r}", "there is no question with this id")
    return answers, questions, problems
