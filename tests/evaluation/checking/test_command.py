"""`attnpatch-eval check`: the arguments of run, a table for people, JSON for programs, exit codes."""

from __future__ import annotations

import json
import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from attnpatch.cli import eval as eval_cli
from attnpatch.cli.eval import app


def call(*arguments: object):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_all_is_there(checkpoint):
    done = call("quick", "--model", checkpoint)
    assert done.exit_code == 0, done.output
    assert "nothing is missing" in done.stdout
    assert "stochastic hybrid" in done.stdout


def test_something_is_missing(checkpoint):
    done = call("--model", checkpoint, "--methods", "flux:router=./none", "stock", "--tasks", "needle", "copy",
                "--lengths", "32", "--json")  # fmt: skip
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert (told["model"], told["suite"]) == (str(checkpoint), "default")
    missing = {(one["part"], one["name"]): one["fix"] for one in told["findings"] if one["status"] == "missing"}
    assert set(missing) == {("method", "flux(router=./none)"), ("task", "copy")}
    assert all(missing.values())
    shown = call("--model", checkpoint, "--methods", "flux:router=./none", "--tasks", "copy", "--lengths", "32")
    assert shown.exit_code == 1
    assert "2 missing" in shown.stdout


@pytest.mark.parametrize("arguments", [["quick"], ["--suite", "quick"]])
def test_a_suite_by_its_place_or_its_option(checkpoint, arguments):
    assert json.loads(call(*arguments, "--model", checkpoint, "--json").stdout)["suite"] == "quick"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["qick"], "Did you mean 'quick'"),
        (["--tasks", "nedle"], "Did you mean 'needle'"),
        (["--methods", "slidng"], "Did you mean 'sliding'"),
        (["--dtype", "float31"], "Did you mean 'float32'"),
        (["--sedes", "1"], "No such option"),
    ],
)
def test_usage_errors_exit_2(arguments, message):
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_it_takes_whatever_run_takes():
    """A command line of run is checked by putting check in its place."""
    commands = get_command(app).commands
    options = {
        command: {name for one in commands[command].params for name in one.opts} for command in ("run", "check")
    }
    assert options["run"] <= options["check"]
    assert options["check"] - options["run"] == {"suite_name", "--json"}


def test_help_and_examples():
    page = call("--help")
    assert page.exit_code == 0
    assert "fetches nothing" in page.stdout
    lines = [shlex.split(line) for line in eval_cli.CHECK_EXAMPLES.splitlines() if line.startswith("attnpatch-eval")]
    assert len(lines) == 3
    for _, command, *words in lines:
        assert command == "check"
        assert call(*words).exit_code == 0
