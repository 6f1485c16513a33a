"""The program attnpatch-eval: arguments, output and exit codes."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from typer.testing import CliRunner

from attnpatch.cli import eval as eval_cli
from attnpatch.cli.eval import app
from attnpatch.cli.lists import expand
from attnpatch.evaluation import Results, runner
from attnpatch.evaluation.loading import CheckpointSource


def call(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    """Drawing is slow, and tested in test_results.py."""
    monkeypatch.setattr(Results, "plot", lambda self, folder: [folder / "drawn.png"])


def small(checkpoint, out, *more: object, tasks=("needle", "copy"), lengths=96):
    return call(
        "run", "--model", checkpoint, "--methods", "sliding:window=12", "stochastic:window=12", "--tasks", *tasks,
        "--lengths", lengths, "--limit", "2", "--seeds", "0", "1", "--output-path", out, "--quiet",
        "--speed-rounds", 0, *more,
    )  # fmt: skip


def test_run_and_look_again(checkpoint, tmp_path):
    done = small(checkpoint, tmp_path)
    assert done.exit_code == 0, done.output
    assert "| stock | 48.5 |" in done.stdout
    assert done.stdout.lstrip().startswith("**")
    assert re.search(r"\| sliding\(window=12\) \| \S+ \| \+0\.000 \(\+0\.000 to \+0\.000\) \|", done.stdout)
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["counts"] == {"ok": 8, "skipped": 0, "error": 0}
    assert data["run"]["suite"]["seeds"] == [0, 1]
    for form, start in {"md": "# attnpatch", "csv": "status,", "json": "{"}.items():
        assert call("report", tmp_path, "--format", form).stdout.startswith(start)
    (tmp_path / "index.html").unlink()  # the run wrote it
    written = call("report", tmp_path / "results.json", "--format", "html").stdout.strip()
    assert written == str(tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text().startswith("<!DOCTYPE html>")
    assert "drawn.png" in call("report", tmp_path, "--format", "plot").stdout
    assert "+0.000" in call("compare", tmp_path, tmp_path).stdout


def test_lists_and_underscores_in_options():
    given = ["--seeds", "0", "1", "--batch_size", "2", "--methods=a", "b", "--strict", "--tasks", "x"]
    assert expand(given, {"--seeds", "--methods", "--tasks"}) == [
        "--seeds", "0", "--seeds", "1", "--batch-size", "2", "--methods=a", "--methods", "b", "--strict",
        "--tasks", "x",
    ]  # fmt: skip


def test_dry_run_loads_no_weights(checkpoint, tmp_path, monkeypatch):
    def never(self):
        raise AssertionError("weights were loaded")

    assert small(checkpoint, tmp_path, tasks=["needle"]).exit_code == 0
    monkeypatch.setattr(CheckpointSource, "load", never)
    done = small(checkpoint, tmp_path, "--dry-run")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[-1] == "8 cells, 4 done"
    assert sum("  done " in line for line in lines) == 4
    assert re.match(r"[0-9a-f]{16}  ", lines[0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--methods", "slidng"], "Did you mean 'sliding'"),
        (["--methods", "sliding:windw=3"], "Did you mean 'window'"),
        (["--tasks", "nedle"], "Did you mean 'needle'"),
        (["--suite", "qick"], "Did you mean 'quick'"),
        (["--dtype", "float31"], "Did you mean 'float32'"),
        (["--lengths", "long"], "not a number of tokens"),
        (["--text-file", "nowhere.txt"], "cannot be read"),
        (["--seeds", "x"], "integer"),
        (["--sedes", "1"], "No such option"),
    ],
)
def test_usage_errors_exit_2(checkpoint, tmp_path, arguments, message):
    done = call("run", "--model", checkpoint, "--output-path", tmp_path, *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_missing_model_exits_1(tmp_path):
    done = call("run", "--model", tmp_path / "none", "--output-path", tmp_path / "out")
    assert done.exit_code == 1
    assert "does not exist" in done.stderr


def test_strict_and_skips(checkpoint, tmp_path):
    tasks = ["needle", "copy"]  # 32 tokens are too few for copy
    assert small(checkpoint, tmp_path, tasks=tasks, lengths=32).exit_code == 0
    assert small(checkpoint, tmp_path, "--strict", tasks=tasks, lengths=32).exit_code == 1
    nothing = small(checkpoint, tmp_path, tasks=["copy"], lengths=32)
    assert nothing.exit_code == 1
    assert nothing.stdout == "no cell is ok\n"


def test_interrupt_exits_130(checkpoint, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setitem(runner.SCORERS, "prefill", interrupt)
    done = small(checkpoint, tmp_path)
    assert done.exit_code == 130
    assert "goes on from them" in done.stderr


def test_unpatch_failure_exits_1(checkpoint, tmp_path, monkeypatch):
    answers = iter([0, 1])
    monkeypatch.setattr(runner, "_fingerprint", lambda model, cell: runner.torch.tensor(next(answers)))
    done = small(checkpoint, tmp_path)
    assert done.exit_code == 1
    assert "unpatch_failed" in done.stderr


def test_progress_goes_to_stderr(checkpoint, tmp_path):
    done = call(
        "run", "--model", checkpoint, "--tasks", "needle", "--lengths", "96", "--limit", "2", "--methods", "stock",
        "--output-path", tmp_path, "--speed-rounds", 1,
    )  # fmt: skip
    assert "stock: 1 cells" in done.stderr
    assert "loading" not in done.stdout
    assert "timing the methods" in done.stderr


@pytest.mark.parametrize("kind, word", [("methods", "stochastic"), ("tasks", "needles16_decode"), ("suites", "quick")])
def test_list(kind, word):
    done = call("list", kind)
    assert done.exit_code == 0
    assert word in done.stdout


@pytest.mark.parametrize("command", [[], ["run"], ["list"], ["report"], ["compare"], ["majority"]])
def test_help_has_examples(command):
    done = call(*command, "--help")
    assert done.exit_code == 0
    assert "attnpatch-eval" in done.stdout
    assert "Examples" in done.stdout


def test_examples_run(checkpoint, tmp_path, monkeypatch):
    """What --help shows works as it stands; runs are planned only, on the packaged model."""
    monkeypatch.chdir(tmp_path)
    assert small(checkpoint, "attnpatch-results").exit_code == 0
    pages = (eval_cli.RUN_EXAMPLES, eval_cli.LIST_EXAMPLES, eval_cli.REPORT_EXAMPLES, eval_cli.COMPARE_EXAMPLES)
    shown = "\n".join(pages)
    lines = [shlex.split(line) for line in shown.splitlines() if line.startswith("attnpatch-eval")]
    assert len(lines) >= 8
    for _, *words in lines:
        if words[0] == "run" and "--dry-run" not in words:
            words.append("--dry-run")
        done = call(*words)
        assert done.exit_code == 0, (words, done.output)
