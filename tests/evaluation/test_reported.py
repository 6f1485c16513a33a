"""Published numbers in a suite: what is wrong with an entry is said, and what stands beside it is computed right."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from attnpatch.evaluation.beside import beside, beside_tables, sources, to_csv
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.methods import parse_method, same_model
from attnpatch.evaluation.reported import Reported
from attnpatch.evaluation.suites import checked

ENTRY = {
    "name": "mean of 2", "model": "owner/Model-1B", "scores": {"needle": "accuracy", "copy": "accuracy"},
    "lengths": [64], "values": {"stock": [80], "sliding": [60]}, "scale": 100, "source": "Table 1", "tag": "paper",
}  # fmt: skip
SUITE = {"methods": ["sliding"], "tasks": ["needle", "copy"], "lengths": [64]}


def row(task, value, method="stock", length=64, metric="accuracy", documents=5):
    return SimpleNamespace(name=method, task=task, value=value, length=length, metric=metric, documents=documents)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"valeus": {}}, "unknown key 'reported.0.valeus'. Did you mean 'values'"),
        ({"tag": "blog"}, "'paper' or 'secondary'"),
        ({"values": {"stock": 80}}, "'stock' has one values for 1 lengths; give a list"),
        ({"values": {"stock": [80, 81]}}, "'stock' has 2 values for 1 lengths"),
        ({"lengths": []}, "for no lengths"),
        ({"values": {"stock": ["high"]}}, "reported.0.values"),
        ({"scores": {}}, "reported.0.scores"),
        ({"scores": {"needle": "mean"}}, "metric 'mean' is for groups of tasks of ours"),
        ({"scores": {"ruler": "accuracy"}}, "metric 'mean' is for groups of tasks of ours"),
        ({"scale": 0}, "reported.0.scale"),
        ({"lengths": ["long"]}, "not a number of tokens"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(UsageError, match=message):
        checked({**SUITE, "reported": [{**ENTRY, **change}]})


def test_a_nested_typo_elsewhere_still_names_its_own_keys():
    with pytest.raises(UsageError, match=r"'lm_eval\.num_fewsht'. Did you mean 'num_fewshot'"):
        checked({**SUITE, "lm_eval": {"num_fewsht": 1}})


def test_lengths_are_read_as_people_write_them():
    suite = checked({**SUITE, "reported": [{**ENTRY, "lengths": ["4k"]}]})
    assert suite.reported[0].at("sliding") == [(4096, 60)]


@pytest.mark.parametrize("given", ["owner/Model-1B", "other/model-1b", "/data/models/Model-1B", "./Model-1B/"])
def test_the_model_by_its_name(given):
    assert same_model("owner/Model-1B", given)
    assert beside([row("needle", 1.0)], [ENTRY], given)


def test_another_model_has_no_numbers():
    assert not same_model("owner/Model-1B", "owner/Model-1B-Base")
    assert beside([row("needle", 1.0), row("copy", 1.0)], [ENTRY], "owner/Model-1B-Base") == []


def test_ours_is_the_scaled_mean_over_all_tasks():
    rows = [
        row("needle", 0.9),
        row("copy", 0.6, documents=7),
        row("needle", 0.5, "sliding"),
        row("copy", 0.1, length=96),
    ]
    stock, sliding = beside(rows, [ENTRY], "owner/Model-1B")
    assert (stock.ours, stock.difference, stock.documents) == (pytest.approx(75), pytest.approx(-5), 12)
    assert (sliding.ours, sliding.difference, sliding.measured, sliding.tasks) == (None, None, 1, 2)
    table = beside_tables([stock, sliding])[0]
    assert [[cell.text for cell in line.cells] for line in table.lines] == [
        ["64", "80.00", "75.00", "-5.00", "12"],
        ["64", "60.00", "- (1/2 tasks)", "-", "5"],
    ]
    assert sources([stock, sliding])[1:] == ["mean of 2: Table 1 [paper]."]
    assert to_csv([stock]).splitlines()[1].startswith("mean of 2,stock,64,80.0,75.0,-5.0,2,2,12,Table 1,paper")


def test_a_budget_is_part_of_the_label():
    entry = {**ENTRY, "scores": {"needle": "accuracy"}, "values": {"sliding @64": [60]}}
    (line,) = beside([row("needle", 0.5, "sliding @64"), row("needle", 0.1, "sliding")], [entry], "owner/Model-1B")
    assert line.ours == 50


def test_entries_of_what_did_not_run_stay_out():
    assert beside([row("chain", 1.0)], [ENTRY], "owner/Model-1B") == []
    assert sources([]) == []


def test_the_mean_of_ruler_is_over_all_its_tasks():
    from attnpatch.evaluation.ruler.specs import RULER_TASKS

    entry = Reported(**{**ENTRY, "scores": {"ruler": "mean"}, "values": {"stock": [90]}, "scale": 1})
    rows = [row(name, 10.0 * i, metric=f"string_match_{spec.match}")
            for i, (name, spec) in enumerate(RULER_TASKS.items())]  # fmt: skip
    assert beside(rows, [entry], "owner/Model-1B")[0].ours == pytest.approx(60)
    assert beside(rows[1:], [entry], "owner/Model-1B")[0].ours is None


def test_options_and_recipe_of_a_model():
    given = {
        "name": "sliding",
        "label": "SWA",
        "options": {"sink": 0},
        "per_model": {"owner/Model-1B": {"options": {"window": 8}, "recipe": "flux/one"}, "owner/Model-2B": None},
    }
    spec = parse_method(given, model="./Model-1B")
    assert (spec.options, spec.recipe) == ({"sink": 0, "window": 8}, "flux/one")
    assert spec.to_dict()["recipe"] == "flux/one"
    assert parse_method(given, model="owner/Model-2B").options == {"sink": 0}
    with pytest.raises(UsageError, match=r"'SWA' has no per_model entry for 'owner/other'. Allowed: owner/Model-1B"):
        parse_method(given, model="owner/other")
    typo = {**given, "per_model": {"owner/Model-1B": {"option": {}}}}
    with pytest.raises(UsageError, match=r"unknown key 'option' in per_model.* Did you mean 'options'"):
        parse_method(typo, model="owner/Model-1B")
