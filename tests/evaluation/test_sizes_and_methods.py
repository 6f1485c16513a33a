"""What users write: sizes, budgets and methods."""

from __future__ import annotations

import pytest

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.methods import parse_method, parse_methods
from attnpatch.evaluation.sizes import check_budget, parse_tokens, resolve_size
from attnpatch.patching.errors import AttnPatchError


def test_tokens():
    assert [parse_tokens(value) for value in (512, "512", "4k", "1K")] == [512, 512, 4096, 1024]


@pytest.mark.parametrize("value", ["", "k", "4m", "-1", 0, True, "length/8", 3.5])
def test_bad_tokens(value):
    with pytest.raises(UsageError, match="not a number of tokens"):
        parse_tokens(value)


def test_shares():
    assert resolve_size("length/8", length=512) == 64
    assert resolve_size("budget/2", length=512, budget=64) == 32
    assert resolve_size("budget/100", length=512, budget=64) == 1
    with pytest.raises(UsageError, match="needs a budget"):
        resolve_size("budget/2", length=512)


@pytest.mark.parametrize("value", ["budget/2", "length/0", "half", True, -3])
def test_bad_budget(value):
    with pytest.raises(UsageError, match="budget"):
        check_budget(value)


def test_method_text():
    spec = parse_method("sliding:window=256,sink=0")
    assert (spec.name, spec.options, spec.match) == ("sliding", {"window": 256, "sink": 0}, None)
    assert spec.config(length=512)["window"] == 256
    assert parse_method("stochastic:circular=false,budget=slots").config(length=64)["circular"] is False


def test_lists_in_method_text():
    assert parse_method("var:dims=[30, 31],layers=[1,2]").options == {"dims": [30, 31], "layers": [1, 2]}
    assert parse_method("icd:alpha=0.5;prefix_ids=[11]").companion.options == {"alpha": 0.5, "prefix_ids": [11]}


def test_window_is_matched_only_where_it_is_free():
    assert parse_method("devils:layers=5:18").config(length=64)["layers"] == "5:18"
    assert parse_method("devils:layers=2:").config(length=64)["layers"] == "2:"
    assert parse_method("sliding", budgets=True).match == "window"
    assert parse_method("sliding:window=8", budgets=True).match is None
    assert parse_method("stock", budgets=True).match is None


def test_share_of_budget_in_options():
    spec = parse_method({"name": "stochastic", "options": {"local": "budget/2"}, "label": "hybrid"}, budgets=True)
    assert spec.config(length=512, budget=64, window=8)["local"] == 32


def test_seeds_only_for_methods_that_draw():
    assert parse_method("stochastic").stochastic
    assert not parse_method("stochastic:seed=3").stochastic
    assert not parse_method("sliding").stochastic


@pytest.mark.parametrize(
    "given, message",
    [
        ("slidng", "Did you mean 'sliding'"),
        ("sliding:windw=3", "Did you mean 'window'"),
        ("sliding:window=0", "window=0"),
        ("sliding:window", "cannot read 'window'"),
        ("var:dims=[30,31", r"cannot read 'dims=\[30'.*a list in brackets"),
        (7, "method 7 is not known"),
        ({"name": "sliding", "option": {}}, "unknown key"),
        ({"name": "stock", "match": "window"}, "no option 'window'"),
    ],
)
def test_bad_methods(given, message):
    with pytest.raises(AttnPatchError, match=message):
        parse_method(given)


def test_stock_comes_first_and_once():
    assert [spec.name for spec in parse_methods(["sliding", "stock"], budgets=False)] == ["stock", "sliding"]
    assert [spec.name for spec in parse_methods(["sliding"], budgets=False)] == ["stock", "sliding"]


def test_methods_twice():
    with pytest.raises(UsageError, match="appear twice: sliding"):
        parse_methods(["sliding", "sliding"], budgets=False)
