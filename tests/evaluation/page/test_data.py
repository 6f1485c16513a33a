"""What the page is told, against numbers that can be worked out by hand."""

from __future__ import annotations

import json
import math

import pytest

from attnpatch.evaluation import Results
from attnpatch.evaluation.page import documents as documents_module
from attnpatch.evaluation.page import page_data
from attnpatch.evaluation.page.front import pareto
from tests.evaluation.page.made_up import PUBLISHED, cell, hits, made_up, write_samples


@pytest.fixture(scope="module")
def data():
    return page_data(made_up())


def line(data, name, length=64):
    return next(one for one in data["lines"] if (one["name"], one["length"]) == (name, length))


def score(data, name, title, length=64):
    index = [column["title"] for column in data["columns"]].index(title)
    return line(data, name, length)["scores"][index]


def test_lines_and_columns(data):
    assert [column["title"] for column in data["columns"]] == ["mean of 2", "needle", "copy", "story ppl"]
    assert [(one["name"], one["length"]) for one in data["lines"][:6]] == [
        ("stock", 64), ("good @8", 64), ("bad @8", 64), ("good @16", 64), ("bad @16", 64), ("stock", 128),
    ]  # fmt: skip
    good = line(data, "good @16")
    assert (good["keys"], good["prefill"], good["in_passing"]) == (16, 1016, True)
    assert [one["series"] for one in data["lines"] if one["name"] == "good @16"] == [
        "good @length/4",
        "good @length/8",
    ]


def test_scores(data):
    assert score(data, "good @8", "needle")["value"] == pytest.approx(0.5)
    assert score(data, "good @16", "mean of 2")["value"] == pytest.approx(0.75)
    assert "low" not in score(data, "good @16", "mean of 2")
    assert score(data, "bad @8", "story ppl")["value"] == pytest.approx(math.exp(3))
    assert score(data, "bad @8", "needle")["star"] is True
    assert "star" not in score(data, "stock", "needle")
    assert score(data, "good @8", "needle")["best"] is True
    assert score(data, "good @8", "needle")["seeds"] == 2


def test_no_mean_of_different_tasks():
    """A mean over other tasks than a neighbour's would compare what cannot be compared."""
    results = made_up()
    results.cells = [one for one in results.cells if one["key"] != "bad-16-copy-64-None"]
    assert [column["title"] for column in page_data(results)["columns"]] == ["needle", "copy", "story ppl"]


def test_rulers_tasks_have_a_mean_of_their_own():
    results = made_up(needle="ruler_niah_single_1")
    for one in results.cells:
        if one["task"]["name"] == "copy":
            one["task"] = one["task"] | {"name": "ruler_vt"}
    data = page_data(results)
    assert next(column["title"] for column in data["columns"]) == "mean of 2 RULER"  # RULER has 13
    panels = {data["columns"][one["column"]]["task"] for one in data["documents"]["scores"]}
    assert panels == {"ruler_niah_single_1", "ruler_vt", "story"}


def test_stock_by_another_label():
    results = made_up()
    for one in results.cells:
        if one["method"]["name"] == "stock":
            one["method"] = one["method"] | {"label": "full"}
    found = {one["method"]: one["stock"] for one in page_data(results)["lines"]}
    assert found == {"full": True, "good": False, "bad": False}


def test_cells_without_metrics_have_no_line():
    results = made_up()
    results.cells.append(cell("silent", None, "bypass", 64, [], keys=3.0, metrics={}, scores={}))
    assert "silent" not in {one["method"] for one in page_data(results)["lines"]}


def test_fronts(data):
    on = {name: score(data, name, "needle").get("front", []) for name in ("stock", "good @8", "bad @8", "good @16")}
    assert on == {"stock": ["keys", "prefill"], "good @8": ["keys"], "bad @8": [], "good @16": ["keys"]}
    assert score(data, "stock", "story ppl")["front"] == ["keys", "prefill"]  # lower is better


def test_pareto():
    points = {"a": (1, 1), "b": (2, 2), "c": (2, 1), "d": (3, 2), "e": (None, 9), "twin": (1, 1)}
    assert pareto(points, low_x=True, low_y=False) == {"a", "b", "twin"}
    assert pareto(points, low_x=False, low_y=False) == {"d"}
    assert pareto(points, low_x=True, low_y=True) == {"a", "twin"}
    nearly = {"a": (64.0, 0.1), "b": (64.4, 0.5), "c": (70.0, 0.5)}
    assert pareto(nearly, low_x=True, low_y=False) == {"b"}


def test_speed_in_turns_replaces_what_was_noted_in_passing():
    results = made_up()
    row = {"method": "good", "budget": 16, "length": 64, "prefill_tokens_per_s": 7.0, "prefill_of_stock": 2.0,
           "decode_tokens_per_s": None, "decode_of_stock": None}  # fmt: skip
    results.run["speed"] = [row]
    data = page_data(results)
    assert (line(data, "good @16")["prefill"], line(data, "good @16")["prefill_of_stock"]) == (7.0, 2.0)
    assert line(data, "good @8")["prefill"] is None  # never one kind beside the other
    assert line(data, "good @16", 128)["in_passing"] is True


def test_depth(data):
    (grid,) = data["depth"]
    assert (grid["task"], grid["depths"]) == ("needle", [0.0, 0.5, 1.0])
    found = {(data["lines"][one["line"]]["name"], data["lines"][one["line"]]["length"]): one for one in grid["lines"]}
    assert found["good @16", 64]["found"] == [1.0, 0.5, 0.75]
    assert found["good @16", 64]["reach"] == [1.0, 0.25, 1.0]
    assert "reach" not in found["stock", 64]


def test_documents(data):
    panels = {(data["columns"][one["column"]]["title"], one["length"]): one for one in data["documents"]["scores"]}
    assert set(panels) == {(title, length) for title in ("needle", "copy", "story ppl") for length in (64, 128)}
    names = {i: one["name"] for i, one in enumerate(data["lines"])}
    needle = {names[i]: values for i, values in panels["needle", 64]["lines"].items()}
    assert needle["good @16"] == hits(9)
    story = {names[i]: values for i, values in panels["story ppl", 128]["lines"].items()}
    assert story["stock"] == [2.718] * 12
    assert data["documents"]["answers"] == []
    assert "no samples folder" in data["documents"]["text"]


def test_answers(tmp_path):
    results = made_up()
    write_samples(tmp_path, results)
    found = page_data(results, tmp_path)["documents"]
    needle = next(one for one in found["answers"] if (one["task"], one["length"]) == ("needle", 64))
    assert needle["wanted"][2] == "word 2"
    assert needle["lines"][0][2] == "word stock 2"
    assert found["text"] == "The answers of 14 of 42 cells are not beside the results."  # those of the story


def test_samples_of_other_documents_are_not_shown(tmp_path):
    results = made_up()
    write_samples(tmp_path, results)
    for path in (tmp_path / "samples").glob("*needle-64*"):
        path.write_text(path.read_text().replace('"id": "3"', '"id": "33"'))
    (tmp_path / "samples" / "stock-None-copy-64-None.jsonl").write_text('{"id": "0"')
    answers = {(one["task"], one["length"]): one for one in page_data(results, tmp_path)["documents"]["answers"]}
    assert ("needle", 64) not in answers
    assert 0 not in answers["copy", 64]["lines"]
    assert 1 in answers["copy", 64]["lines"]


def test_answers_of_all_kinds():
    assert documents_module._answer({"predicted": [3, 4]}) == "3 4"
    assert documents_module._answer({"answers": [[["x", 1]]]}) == '[[["x", 1]]]'
    assert documents_module._answer({}) == ""
    assert len(documents_module._answer({"prediction": "x" * 999})) == documents_module.LONGEST + 1
    assert documents_module._seeds(("a", "a")) == "a"
    assert documents_module._seeds(("a", "b")) == "a / b"


def test_limits_leave_out_and_say_so(tmp_path, monkeypatch):
    results = made_up()
    write_samples(tmp_path, results)
    monkeypatch.setattr(documents_module, "MOST_SCORES", 5 * 12 * 4)
    monkeypatch.setattr(documents_module, "MOST_TEXT", 2000)
    found = page_data(results, tmp_path)["documents"]
    assert (len(found["scores"]), found["left_out"]) == (4, 2)
    assert len(found["answers"]) < 4


def test_other_documents_are_not_paired():
    results = made_up()
    for one in results.cells:
        if one["method"]["label"] == "bad" and one["task"]["name"] == "needle":
            one["task"] = one["task"] | {"documents": "others"}
    data = page_data(results)
    panel = next(one for one in data["documents"]["scores"] if data["columns"][one["column"]]["title"] == "needle")
    assert {data["lines"][i]["method"] for i in panel["lines"]} == {"stock", "good"}


def test_documents_of_their_own_length_and_metrics_nobody_knows():
    own = {"metrics": {"odd": {"value": 3.0, "low": None, "high": None}}, "scores": {}}
    data = page_data(Results([cell("stock", None, "t", None, [], keys=4.0, **own)], {}))
    assert data["columns"][0]["lower"] is None
    assert data["lines"][0]["length"] is None
    assert data["lines"][0]["scores"] == [{"value": 3.0, "seeds": 1, "documents": 0, "keys": 4.0, "small": True}]


def test_facts(data):
    facts = dict(data["facts"])
    assert "dtype" in facts
    assert not {"device", "data seed", "machine", "peak memory"} & set(facts)  # unknown here
    results = made_up()
    results.run["suite"]["data_seed"] = 0
    assert dict(page_data(results)["facts"])["data seed"] == "0"
    assert facts["revision"] == "abc123"
    assert facts["seeds"] == "0, 1"
    assert "bit for bit" in facts["removal"]
    assert facts["measured"] == "2026-01-01T00:00:00+00:00 to 2026-01-02T00:00:00+00:00"
    assert data["counts"] == {"ok": 42, "skipped": 0, "error": 1}
    assert data["problems"] == ["error: out of memory (less)"]
    assert {"name": "good @8, 64 tokens", "tasks": [], "config": '{"window": 8}'} in data["configs"]
    assert "UNPATCH FAILED" in dict(page_data(made_up(unpatched=False))["facts"])["removal"]


def test_published_numbers_stand_beside_the_score_they_mean():
    data = page_data(made_up(reported=PUBLISHED))
    numbers = {(one["name"], one["method"], one["length"]): one for one in data["published"]["numbers"]}
    for (name, method, length), one in numbers.items():
        if name != "more" and method != "other":
            shown, title = data["lines"][one["line"]], data["columns"][one["column"]]["title"]
            assert (shown["name"], shown["length"]) == (method, length)
            assert title == {"needles": "needle", "both": "mean of 2"}[name]
    good = numbers["needles", "good @16", 128]
    assert (good["reported"], good["value"], good["ours"], good["difference"]) == pytest.approx((79, 0.79, 50, -29))
    assert (good["source"], good["tag"], good["note"]) == ("Table 1", "paper", "Other prompts.")
    assert (numbers["needles", "other", 64]["line"], numbers["needles", "other", 64]["ours"]) == (None, None)
    assert (numbers["more", "stock", 64]["column"], numbers["more", "stock", 64]["measured"]) == (None, 1)
    assert data["published"]["note"].startswith("Reported numbers stand as their source prints them")
    assert page_data(made_up())["published"] == {"note": "", "numbers": []}


def test_rulers_published_mean_stands_beside_ours():
    from attnpatch.evaluation.ruler.specs import RULER_TASKS

    cells = [
        cell("stock", None, name, 64, [0.5] * 3, keys=32.0, metric=f"string_match_{spec.match}")
        for name, spec in RULER_TASKS.items()
    ]
    entry = PUBLISHED[0] | {"scores": {"ruler": "mean"}, "lengths": [64], "values": {"stock": [90]}, "scale": 1}
    data = page_data(Results(cells, {"model": {"id": "some/model"}, "suite": {"reported": [entry]}}))
    (number,) = data["published"]["numbers"]
    assert (data["columns"][number["column"]]["title"], number["line"], number["ours"]) == (
        "RULER",
        0,
        pytest.approx(50),
    )


def test_nothing_measured():
    data = page_data(Results([], {}))
    assert (data["lines"], data["columns"], data["depth"]) == ([], [], [])
    assert json.loads(json.dumps(data, allow_nan=False)) == data
