"""Suites: those that ship are valid, and mistakes in others are named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.suites import checked, load_suite, make_suite, suite_names
from attnpatch.methods.flux import plans


def test_shipped_suites_are_valid():
    assert {"default", "quick"} <= set(suite_names())
    for name in suite_names():
        suite = checked(load_suite(name))
        assert suite.name == name
        assert suite.description


def test_default_is_the_main_job():
    suite = checked(load_suite("default"))
    assert suite.model == "sandbox:text"
    assert [spec.name for spec in suite.method_specs()] == ["stock", "sliding", "stochastic", "stochastic"]
    faithful, hybrid = suite.method_specs()[2:]
    config = faithful.config(length=512, budget=64, window=64)
    assert (config["variant"], config["circular"], config["sink"], config["local"]) == ("slots", True, 0, 0)
    assert hybrid.config(length=512, budget=64, window=8)["local"] > 0
    assert len(suite.budgets) == 2
    assert len(suite.seeds) == 3
    wanted = {"needle", "needles16", "mqar", "chain", "copy", "local", "perplexity"}
    assert wanted <= {task.name for task in suite.tasks}


def test_files(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("methods: [sliding]\ntasks: [needle, {name: copy, limit: 3}]\nlengths: [4k, 512]\n")
    suite = checked(load_suite(path))
    assert suite.name == "mine"
    assert suite.lengths == [4096, 512]
    assert [(task.name, task.limit) for task in suite.tasks] == [("needle", None), ("copy", 3)]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"methdos": ["stock"]}, "unknown key 'methdos'. Did you mean 'methods'"),
        ({"tasks": [{"name": "needle", "limt": 3}]}, "Did you mean 'limit'"),
        ({"tasks": []}, "tasks"),
        ({"lengths": "long"}, "lengths"),
        ({"batch_size": 0}, "batch_size"),
        ({"methods": ["stochastik"]}, "Did you mean 'stochastic'"),
    ],
)
def test_mistakes(values, message):
    good = {"methods": ["stock"], "tasks": ["needle"], "lengths": [64]}
    with pytest.raises(UsageError, match=message):
        checked({**good, **values})


def test_unknown_suite(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'default'"):
        load_suite("defualt")
    with pytest.raises(UsageError, match="cannot be read"):
        load_suite(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UsageError, match="not a YAML mapping"):
        load_suite(tmp_path / "list.yaml")


def test_missing_values_take_defaults():
    assert make_suite(methods=["stock"], tasks=["needle"], lengths=[64], limit=None).limit == 32


def test_flux_compares_at_whole_layers():
    suite = checked(load_suite("flux"))
    specs = {spec.label: spec for spec in suite.method_specs()}
    arms = [spec.config(length=512) for spec in specs.values() if spec.name == "flux"]
    assert {(config["sink"], config["local"]) for config in arms} == {(4, 32)}
    for kind in ("random", "entropy", "calibrate"):
        for sixths in (5, 4):
            config = specs[f"{kind} {sixths}/6"].config(length=512)
            assert plans.check(config["plan"]) == config["plan"]
            sites = [SimpleNamespace(layer=layer) for layer in range(6)]
            gates = plans.resolve(config["plan"], sites, seed=0, scores=lambda kind: [0.0] * 6)
            assert list(gates.values()).count(False) == sixths
    assert [label for label, spec in specs.items() if spec.stochastic] == ["random 5/6", "random 4/6"]
    assert specs["router"].options["router"] == "sandbox:flux"
