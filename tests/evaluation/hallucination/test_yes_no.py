"""POPE, MME and AMBER against numbers computed by hand, and the traps of their parsing rules."""

from __future__ import annotations

import pytest

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination import amber, mme, pope
from attnpatch.evaluation.hallucination.answers import amber_answer, lenient_answer, mme_answer, pope_answer


@pytest.mark.parametrize(
    "text, official, lenient",
    [
        ("Yes", "yes", "yes"),
        ("yes.", "yes", "yes"),
        ("No", "no", "no"),
        ("no, there is none", "no", "no"),
        ("There is not. Yes", "no", "no"),
        ("The answer: No", "no", "no"),
        ("", "yes", "other"),
        ("NO", "yes", "no"),
        ("Not at all", "yes", "no"),
        ("1. No", "yes", "no"),
        ("No\n", "yes", "no"),  # split at a space only
        ("nothing", "yes", "other"),
        ("Perhaps.", "yes", "other"),
    ],
)
def test_how_pope_reads_an_answer(text, official, lenient):
    assert pope_answer(text) == official
    assert lenient_answer(text) == lenient


@pytest.mark.parametrize(
    "text, found",
    [
        ("Yes.", "yes"), ("NO", "no"), (" y ", "yes"), ("N", "no"), ("Yes, it is", "yes"), ("A no", "no"),
        ("noyes", "no"), ("no yes", "no"), ("I think no", "other"), ("", "other"), ("x", "other"), ("know", "no"),
    ],
)  # fmt: skip
def test_how_mme_reads_an_answer(text, found):
    assert mme_answer(text) == found


@pytest.mark.parametrize(
    "text, found",
    [("Yes", "yes"), ("no.", "no"), ("No, there is not", "no"), ("**Yes**", "yes"), ("", "other"), ("None", "other")],
)
def test_how_amber_reads_an_answer(text, found):
    assert amber_answer(text) == found


def labels(*given: str, **more) -> list[dict]:
    return [{"question_id": index, "label": label, **more} for index, label in enumerate(given)]


def test_pope_by_hand():
    # yes: 3 (two right), no: 2 (one right)
    given = dict(enumerate(["Yes", "yes", "Yes", "No", "no"]))
    found = pope.score(given, labels("yes", "yes", "no", "no", "yes"))
    assert found["accuracy"] == pytest.approx(60)
    assert found["precision"] == pytest.approx(200 / 3)
    assert found["recall"] == pytest.approx(200 / 3)
    assert found["f1"] == pytest.approx(200 / 3)
    assert found["yes_ratio"] == pytest.approx(60)
    assert found["empty_rate"] == 0
    assert found["questions"] == 5


def test_pope_without_any_yes():
    found = pope.score({0: "No", 1: "No"}, labels("yes", "no"))
    assert (found["precision"], found["recall"], found["f1"], found["yes_ratio"]) == (0, 0, 0, 0)
    assert found["accuracy"] == 50


def test_pope_empty_answers_are_yes_and_are_counted():
    given = {0: "", 1: "  ", 2: "No", 3: "1. No"}
    found = pope.score(given, labels("no", "yes", "no", "no"))
    assert (found["yes_ratio"], found["empty_rate"], found["accuracy"]) == (75, 50, 50)
    lenient = pope.score(given, labels("no", "yes", "no", "no"), parse="lenient")
    assert (lenient["yes_ratio"], lenient["accuracy"]) == (0, 50)  # neither yes nor no is wrong


def test_pope_yes_ratio_counts_answers_not_labels():
    assert pope.score({0: "Yes", 1: "Yes"}, labels("no", "no"))["yes_ratio"] == 100


def test_pope_mean_of_splits():
    rows = [
        {"question_id": "r1", "label": "yes", "split": "random"},
        {"question_id": "r2", "label": "no", "split": "random"},
        {"question_id": "a1", "label": "yes", "split": "adversarial"},
        {"question_id": "a2", "label": "no", "split": "adversarial"},
        {"question_id": "a3", "label": "no", "split": "adversarial"},
        {"question_id": "a4", "label": "no", "split": "adversarial"},
    ]
    given = {"r1": "Yes", "r2": "No", "a1": "Yes", "a2": "Yes", "a3": "Yes", "a4": "No"}
    found = pope.score(given, rows)
    assert (found["f1 (random)"], found["f1 (adversarial)"]) == (100, 50)
    assert found["f1"] == 75  # the mean of the splits, not that of all six questions
    assert found["accuracy"] == 75
    assert found["yes_ratio"] == pytest.approx((50 + 75) / 2)


def test_answers_are_joined_by_id_never_by_order():
    rows = labels("yes", "no", "no")
    straight = pope.score([{"question_id": i, "answer": a} for i, a in enumerate(["Yes", "No", "No"])], rows)
    shuffled = pope.score([{"question_id": 2, "text": "No"}, {"question_id": 0, "answer": "Yes"},
                           {"question_id": 1, "response": "No"}], reversed(rows))  # fmt: skip
    assert straight == shuffled
    assert straight["accuracy"] == 100


@pytest.mark.parametrize(
    "given, rows, message",
    [
        ({0: "Yes"}, labels("yes", "no"), "question '1': it has no answer"),
        ({0: "Yes", 7: "No"}, labels("yes"), "prediction '7': there is no question"),
        ([{"question_id": 0, "answer": "Yes"}] * 2, labels("yes"), "prediction 2: question '0' has been answered"),
        ({0: "Yes"}, labels("yes") * 2, "reference 2: question '0' stands there twice"),
        ({0: "Yes"}, labels("maybe"), "reference 1: its label is 'maybe'"),
        ([{"question_id": 0, "answer": None}], labels("yes"), "it holds no text"),
    ],
)
def test_ids_that_do_not_match_stop_or_are_counted(given, rows, message):
    with pytest.raises(UsageError, match=message):
        pope.score(given, rows)
    left = pope.score(given, rows, on_bad="skip")["left_out"]
    assert left["count"] >= 1
    assert any(message in line for line in left["first"])


def test_unknown_words_are_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown parse 'lenien'\. Did you mean 'lenient'"):
        pope.score({0: "Yes"}, labels("yes"), parse="lenien")
    with pytest.raises(UsageError, match=r"on_bad 'stopp' is not known\. Did you mean 'stop'"):
        pope.score({0: "Yes"}, labels("yes"), on_bad="stopp")


def mme_rows(group: str, *images: str) -> list[dict]:
    return [
        {"question_id": f"{group}/{image}/{label}", "image": image, "category": group, "answer": label}
        for image in images
        for label in ("Yes", "No")
    ]


def test_mme_by_hand():
    rows = [*mme_rows("existence", "a", "b"), *mme_rows("count", "a"), *mme_rows("code_reasoning", "a")]
    given = {row["question_id"]: row["answer"] for row in rows}
    given["existence/b/No"] = "Yes"  # 3 of 4 right, 1 of 2 pictures
    given["count/a/Yes"] = "I think yes"  # other: wrong
    found = mme.score(given, rows)
    assert found["existence"] == 75 + 50
    assert found["count"] == 50 + 0
    assert found["code_reasoning"] == 200
    assert found["perception"] == found["hallucination"] == 175  # of the subtasks that were asked
    assert found["cognition"] == 200
    assert found["other_rate"] == 100 / 8
    assert found["incomplete"] == 0


def test_mme_picture_with_one_question_is_left_out_and_counted():
    rows = mme_rows("existence", "a", "b")[:3]
    found = mme.score({row["question_id"]: "Yes" for row in rows}, rows)
    assert found["existence"] == 50  # of a alone: one of two right
    assert found["incomplete"] == 1
    right = mme.score({row["question_id"]: row["answer"] for row in rows}, rows)
    assert right["existence"] == 200


def test_mme_maxima():
    rows = [row for group in mme.SUBTASKS for row in mme_rows(group, "x")]
    found = mme.score({row["question_id"]: row["answer"] for row in rows}, rows)
    assert (found["perception"], found["cognition"], found["hallucination"]) == (2000, 800, 800)


def amber_rows(*given: tuple[str, str]) -> list[dict]:
    return [{"id": index, "type": kind, "truth": truth} for index, (kind, truth) in enumerate(given)]


def test_amber_scores_the_answer_no():
    rows = amber_rows(
        ("discriminative-hallucination", "no"),
        ("discriminative-hallucination", "no"),
        ("discriminative-attribute-state", "no"),
        ("discriminative-attribute-number", "yes"),
        ("relation", "yes"),
        ("discriminative-relation", "no"),
    )
    given = dict(enumerate(["No", "Yes", "No", "No", "Yes", "I see"]))
    found = amber.score([{"id": key, "response": text} for key, text in given.items()], rows)
    assert found["accuracy"] == 50  # 0, 2, 4; an answer that is neither is wrong
    assert found["precision"] == pytest.approx(200 / 3)  # of 0, 2, 3
    assert found["recall"] == 50  # of 0, 1, 2, 5
    assert found["f1"] == pytest.approx(400 / 7)
    assert found["other_rate"] == pytest.approx(100 / 6)
    assert (found["precision (existence)"], found["recall (existence)"]) == (100, 50)
    assert found["accuracy (relation)"] == 50  # both names of it
    assert found["accuracy (attribute)"] == 50
    assert "accuracy (action)" not in found


def test_amber_official_rules():
    rows = amber_rows(("relation", "no"), ("relation", "no"), ("relation", "no"))
    given = {0: "No", 1: "no.", 2: "Yes"}
    assert amber.score(given, rows)["recall"] == pytest.approx(200 / 3)
    exact = amber.score(given, rows, parse="official")
    assert exact["recall"] == pytest.approx(100 / 3)
    assert exact["other_rate"] == pytest.approx(100 / 3)
    rounded = amber.score(given, rows, official_rounding=True)
    assert (rounded["precision"], rounded["recall"], rounded["accuracy"]) == (100, 66.7, 66.7)
    assert rounded["f1"] == round(200 * 1 * 0.667 / (1.667 + 1e-4), 1) == 80.0
    small = amber.score({0: "No", 1: "Yes"}, amber_rows(*[("discriminative-hallucination", "no")] * 2),
                        official_rounding=True)  # fmt: skip
    assert (small["f1"], small["f1 (existence)"]) == (66.7, 66.6)  # 1e-3 in place of 1e-4
