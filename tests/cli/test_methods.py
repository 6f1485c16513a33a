"""`attnpatch list` and `attnpatch show`, and what they say about any registered method."""

from __future__ import annotations

import json
import shlex
from typing import Literal

import pytest
from pydantic import Field
from typer.testing import CliRunner

import attnpatch as library
from attnpatch.cli import eval as evaluation
from attnpatch.cli import main
from attnpatch.cli.describe import describe
from attnpatch.patching.method import _registry
from tests.zoo import build, image_prompt

from .conftest import refused


def test_list_shows_every_method(attnpatch):
    result = attnpatch("list")
    assert result.exit_code == 0
    methods, _, companions = result.stdout.partition("Companions of decoding")
    for name in library.methods():
        assert f" {name} " in methods
    for name in library.decoding.NAMES:
        assert f" {name} " in companions


def test_list_as_json(attnpatch):
    rows = json.loads(attnpatch("list", "--json").stdout)
    assert {row["name"] for row in rows if row["kind"] == "method"} == set(library.methods())
    assert {row["name"] for row in rows if row["kind"] == "companion"} == set(library.decoding.NAMES)
    for row in rows:
        assert all(row[key] for key in ("summary", "paper", "neutral", "limits")), row


@pytest.mark.parametrize("name", library.methods())
def test_show_names_every_option_with_its_help(attnpatch, name):
    result = attnpatch("show", name)
    assert result.exit_code == 0
    shown = json.loads(attnpatch("show", name, "--json").stdout)
    fields = library.methods()[name].Config.model_fields
    assert [option["name"] for option in shown["options"]] == list(fields)
    for option in shown["options"]:
        assert option["help"], f"{name}.{option['name']} has no help"
        assert option["name"] in result.stdout
    assert shown["examples"]["python"] in " ".join(result.stdout.split())


def test_show_says_where_the_authors_code_differs(attnpatch):
    shown = attnpatch("show", "var").stdout
    assert "where the authors' code differs" in shown
    assert "p is 1 - p: its 0.6 is p = 0.4" in shown
    assert json.loads(attnpatch("show", "pai", "--json").stdout)["released"] == {}
    assert "authors' code" not in attnpatch("show", "pai").stdout


@pytest.mark.parametrize("name", library.decoding.NAMES)
def test_show_knows_companions(attnpatch, name):
    shown = json.loads(attnpatch("show", name, "--json").stdout)
    companion = library.decoding.companion_class(name)
    assert [option["name"] for option in shown["options"]] == list(companion.Config.model_fields)
    assert all(option["help"] for option in shown["options"])
    text = " ".join(attnpatch("show", name).stdout.split())
    assert shown["examples"]["python"] in text
    model, inputs = build("llava"), image_prompt("llava")
    model.generation_config.max_new_tokens = 2
    scope = {"attnpatch": library, "model": model, "inputs": inputs}
    exec(shown["examples"]["python"], scope)
    assert scope["tokens"].shape[1] == inputs["input_ids"].shape[1] + 2


def test_show_gives_types_defaults_and_ranges(attnpatch):
    options = {one["name"]: one for one in json.loads(attnpatch("show", "stochastic", "--json").stdout)["options"]}
    assert options["window"] == {
        "name": "window",
        "type": "int",
        "default": 1024,
        "required": False,
        "allowed": ">= 1",
        "help": options["window"]["help"],
    }
    assert options["variant"]["allowed"] == "slots, buckets"
    assert (options["circular"]["type"], options["circular"]["default"]) == ("bool", True)


def test_describe_reads_any_config():
    class Options(library.Config):
        share: float = Field(0.5, gt=0, le=1, description="a share")
        heads: list[int] | None = Field(None, description="which heads")
        mode: Literal["only"] = Field("only", description="one choice")
        weights: str = Field(description="no default")

    class Odd(library.Method):
        name = "odd"
        Config = Options
        replaces_keys = reads_whole_prompt = True

    described = describe(Odd)
    share, heads, mode, weights = described["options"]
    assert share["allowed"] == "> 0, <= 1"
    assert (heads["type"], heads["default"], heads["required"]) == ("list or none", None, False)
    assert (mode["type"], mode["allowed"]) == ("str", "only")
    assert weights["required"]
    assert any("whole prompt" in need for need in described["needs"])
    assert any("softcap" in need for need in described["needs"])
    assert described["examples"]["python"] == "patch = attnpatch.apply(model, \"odd\", share=0.5, mode='only')"
    assert described["examples"]["bench"].endswith("odd:share=0.5,mode=only")


@pytest.fixture(scope="module")
def packaged():
    """The models that the examples are for: `sandbox:text` and, for methods about images, `sandbox:vision`."""
    return {name: library.sandbox.load(name)[0] for name in library.sandbox.MODELS}


@pytest.mark.parametrize("name", library.methods())
def test_python_examples_run(name, packaged):
    method = library.methods()[name]
    model = packaged["vision" if method.needs_images else "text"]
    scope = {"attnpatch": library, "model": model}
    exec(describe(method)["examples"]["python"], scope)
    try:
        assert scope["patch"].active
        assert scope["patch"].site_names  # an example that changes no layer shows nothing
    finally:
        scope["patch"].remove()


# Words that keep a run short: here the lines have to be understood, and to fit the model that they name.
SHORT = {"evaluate": ["--dry-run"], "bench": ["--lengths", "256", "--layers", "1", "--repeats", "1"]}


@pytest.mark.parametrize("name", [*library.methods(), *library.decoding.NAMES])
def test_shell_examples_run(name, attnpatch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a picture is written to where the command runs
    monkeypatch.setattr("attnpatch.cli.console.PIPED_WIDTH", 60)
    lines = json.loads(attnpatch("show", name, "--json").stdout)["examples"]
    shown = attnpatch("show", name).stdout
    del lines["python"]
    assert lines
    for what, line in lines.items():
        assert line in shown  # not wrapped
        program, *words = shlex.split(line)
        app = {"attnpatch": main.app, "attnpatch-eval": evaluation.app}[program]
        result = CliRunner().invoke(app, [*words, *SHORT.get(what, [])])
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_lists_in_shell_examples_are_quoted():
    class Options(library.Config):
        heads: list[int] = Field([0, 1], description="which heads")

    class Odd(library.Method):
        name = "odd"
        Config = Options

    assert describe(Odd)["examples"]["evaluate"] == "attnpatch-eval run --methods 'odd:heads=[0,1]'"


def test_a_users_own_method_is_listed(attnpatch):
    try:

        @library.register("mine")
        class Mine(library.Method):
            """A method of the user's script."""

            summary, paper, neutral, limits = "does nothing", "none", "always", "all"

        assert " mine " in attnpatch("list").stdout
        assert "does nothing" in attnpatch("show", "mine").stdout
    finally:
        _registry.pop("mine", None)


def test_unknown_method(attnpatch):
    refused(attnpatch("show", "sldng"), "'sldng'", "Did you mean 'sliding'?", "Allowed: ")
    refused(attnpatch("show", "guidanc"), "'guidanc'", "Did you mean 'guidance'?")
