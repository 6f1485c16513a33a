"""RULER's mean is called RULER only if it is; the effective length follows the paper's threshold."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from attnpatch.evaluation.ruler.report import NOTES, effective, overall, ruler_tables, to_dict
from attnpatch.evaluation.ruler.specs import ALL


def row(task: str, length: int, value: float, method: str = "stock", budget: int | None = None):
    return SimpleNamespace(
        task=task,
        length=length,
        value=value,
        method=method,
        budget=budget,
        mean_keys=9.0,
        best=False,
        significant=False,
    )


def rows(scores: dict[int, float], tasks=ALL, **more):
    return [row(task, length, value, **more) for length, value in scores.items() for task in tasks]


def test_mean_of_all_13_is_ruler():
    mixed = [row(task, 4096, 100.0 if i < 4 else 50.0) for i, task in enumerate(ALL)]
    (found,) = overall([*mixed, row("needle", 4096, 0.3)])
    assert found.complete
    assert found.value == pytest.approx((400 + 450) / 13)
    (table,) = ruler_tables(mixed, "m")
    assert table.columns[-1] == "RULER"
    assert "RULER, 4096 tokens" in table.title
    assert table.lines[0].cells[-1].text == "65.38"


def test_fewer_are_not():
    few = rows({4096: 80.0}, ALL[:6])
    (found,) = overall(few)
    assert found.text == "80.00 (6/13)"
    (table,) = ruler_tables(few, "m")
    assert table.columns == ["keys", "S1", "S2", "S3", "MK1", "MK2", "MK3", "mean"]
    assert "not all 13" in table.title
    assert to_dict(few)["means"][0]["is_ruler"] is False
    assert effective(rows({4096: 90.0, 8192: 90.0}, ALL[:12])) == []


def test_one_method_short_of_a_task_takes_the_name_from_the_column():
    found = rows({4096: 80.0}) + rows({4096: 70.0}, ALL[1:], method="sliding", budget=64)
    (table,) = ruler_tables(found, "m")
    assert table.columns[-1] == "mean"
    assert [line.cells[-1].text for line in table.lines] == ["80.00", "70.00 (12/13)"]
    assert table.lines[1].cells[1].text == "-"


@pytest.mark.parametrize(
    "scores, length, text",
    [
        ({4096: 99, 8192: 85.6, 16384: 85.5}, 8192, "8192"),
        ({4096: 99, 8192: 90, 16384: 86}, 16384, "≥ 16384"),
        ({4096: 80, 8192: 90, 16384: 70}, 0, "none"),
        ({16384: 90, 4096: 90, 8192: 20}, 4096, "4096"),  # 16384 does not count: 8192 fails
    ],
)
def test_effective_length(scores, length, text):
    (found,) = effective(rows(scores))
    assert (found.length, found.text) == (length, text)
    table = ruler_tables(rows(scores), "m")[-1]
    assert table.columns == ["4096", "8192", "16384", "effective length"]
    assert table.lines[0].cells[-1].text == text


def test_one_length_has_no_effective_length():
    assert effective(rows({4096: 99.0})) == []
    assert len(ruler_tables(rows({4096: 99.0}), "m")) == 1


def test_nothing_without_ruler():
    assert to_dict([row("needle", 4096, 0.3)]) is None
    assert ruler_tables([row("needle", 4096, 0.3)], "m") == []


def test_notes_name_the_differences():
    text = " ".join(NOTES)
    for word in ("NVIDIA/RULER", "lm-eval", "cwe", "85.6", "not the same documents"):
        assert word in text
