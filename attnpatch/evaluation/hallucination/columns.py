"""Scores as sums and weights per document, so that every metric can be recomputed on a resample of the pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from attnpatch.evaluation.hallucination.questions import Question

Column = dict[str, Any]
MEAN, SUM = "mean", "sum"  # how the strata of a metric are put together
UNIT = " %"  # at the end of the name of a metric that lies between 0 and 100
CLASS = ("accuracy", "precision", "recall", "f1")


def column(
    pairs: Iterable[tuple[float, float]], kind: str = "ratio", *, scale: float = 100.0, lower: bool = False,
    strata: str | None = None, within: Sequence[str] | None = None, detail: bool = False,
    neutral: bool = False,
) -> Column:  # fmt: skip
    """One metric from (sum, weight) pairs, a document each.

    kind: "ratio" (all sums over all weights) or "mean" (of the documents' ratios). strata: "mean" or "sum" of the
    metric over the strata in `within` (None: all). detail: left out of the short tables. neutral: neither more nor
    less is better.
    """
    sums, weights = zip(*pairs, strict=True) if (pairs := list(pairs)) else ((), ())
    found: Column = {"sums": list(map(float, sums)), "weights": list(map(float, weights)), "kind": kind}
    found |= {"scale": scale} if scale != 1 else {}
    found |= {"lower_is_better": True} if lower else {}
    found |= {"strata": strata} if strata else {}
    found |= {"within": list(within)} if within is not None else {}
    found |= {"neutral": True} if neutral else {}
    return found | ({"detail": True} if detail else {})


def class_columns(
    answers: Sequence[str], questions: Sequence[Question], positive: str, **given: Any
) -> dict[str, Column]:
    """accuracy, precision, recall and F1 for the answer `positive`; an answer that is neither yes nor no is wrong."""
    triples = [
        (answer == positive, question.label == positive, answer == question.label)
        for answer, question in zip(answers, questions, strict=True)
    ]
    made = {
        "accuracy": [(right, 1) for _, _, right in triples],
        "precision": [(said and true, said) for said, true, _ in triples],
        "recall": [(said and true, true) for said, true, _ in triples],
        "f1": [(2 * (said and true), said + true) for said, true, _ in triples],
    }
    return {name + UNIT: column(made[name], "mean" if name == "accuracy" else "ratio", **given) for name in CLASS}


def of_groups(
    columns: dict[str, Column], groups: Mapping[str, Collection[str]], questions: Sequence[Question]
) -> dict[str, Column]:
    """The same metrics over some groups of questions alone, as details: `{"f1 % (name)": ...}`."""
    found = {}
    for label, group in groups.items():
        for name, whole in columns.items():
            rows = zip(whole["sums"], whole["weights"], questions, strict=True)
            own = [(top, bottom) if question.group in group else (0, 0) for top, bottom, question in rows]
            found[f"{name} ({label})"] = column(own, whole["kind"], detail=True)
    return found


def plain(values: dict[str, float]) -> dict[str, float]:
    """The same numbers under names without units, as the pure functions return them."""
    return {name.replace(UNIT, ""): value for name, value in values.items()}


def groups_of(questions: Iterable[Question]) -> list[str]:
    """The groups, in order of appearance."""
    return list(dict.fromkeys(question.group for question in questions))
