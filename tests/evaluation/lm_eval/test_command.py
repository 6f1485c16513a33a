"""The two programs: lm-eval's own with our model type, and attnpatch-eval with lm-eval's tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from attnpatch.cli import eval as eval_cli
from attnpatch.cli import lm_eval as command
from attnpatch.evaluation import Results
from attnpatch.evaluation.lm_eval import AttnPatchLM, extra
from attnpatch.evaluation.loading import CheckpointSource
from attnpatch.patching.errors import AttnPatchError
from tests.evaluation.lm_eval.conftest import TASK_FILES

# lm-eval would read 14,000 task files of its own first; the task asked for is not among them.
WITHOUT_DEFAULTS = """
from lm_eval.tasks import TaskManager
build = TaskManager.__init__
TaskManager.__init__ = lambda self, **given: build(self, **{**given, "include_defaults": False})
from attnpatch.cli.lm_eval import main
main()
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=240,
    )  # fmt: skip


def test_lm_evals_own_command_line_with_our_model(folder, tmp_path, model, tokenizer, answers):
    done = python(
        WITHOUT_DEFAULTS, "run", "--model", "attnpatch",
        "--model_args", f"pretrained={folder},method=sliding,method_args=window=2;sink=0",
        "--tasks", "toy_mc", "--include_path", TASK_FILES, "--device", "cpu", "--limit", 4, "--output_path", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "|toy_mc|" in done.stdout
    (file,) = tmp_path.rglob("results_*.json")
    found = json.loads(file.read_text())
    used = found["config"]["attnpatch"]
    assert used["methods"][0]["config"]["window"] == 2
    assert (used["loglikelihood"], used["batch_size"]) == ("whole", 1)
    lm = AttnPatchLM(model, "sliding", {"window": 2, "sink": 0}, tokenizer=tokenizer)
    scores, _ = answers(lm, names=["toy_mc"])
    lm.patch.remove()
    for name in ("acc,none", "acc_norm,none", "brier_score,none"):
        assert found["results"]["toy_mc"][name] == pytest.approx(float(scores["toy_mc", name]), rel=1e-6)


def test_nothing_imports_lm_eval_before_it_is_used():
    code = (
        "import sys, attnpatch.cli.lm_eval, attnpatch.cli.eval, attnpatch.evaluation.evaluate\n"
        "from attnpatch.evaluation.suites import checked, load_suite\n"
        "checked(load_suite('default'))\n"
        "assert not {'lm_eval', 'datasets'} & set(sys.modules), 'imported'"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error, code", [(AttnPatchError("unknown method 'x'"), 2), (ImportError("no jieba"), 1)])
def test_errors_are_one_line(monkeypatch, capsys, error, code):
    import lm_eval.__main__

    def fail():
        raise error

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", fail)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    assert 'pip install "attnpatch[eval]"' in capsys.readouterr().err


@pytest.fixture
def call(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Results, "plot", lambda self, folder: [])  # slow, and tested elsewhere

    def call(*more):
        arguments = [
            "run", "--model", folder, "--include_path", TASK_FILES, "--methods", "sliding:window=2,sink=0",
            "--limit", 3, "--lengths", 64, "--speed-rounds", 0, "--output_path", tmp_path, "--quiet", *more,
        ]  # fmt: skip
        return CliRunner().invoke(eval_cli.app, list(map(str, arguments)))

    return call


def test_attnpatch_eval_takes_their_names(call, tmp_path):
    done = call("--tasks", "toy_mc,toy_roll", "lm_eval:toy_gen", "--loglikelihood", "context", "--num_fewshot", 1,
                "--gen_kwargs", "max_gen_toks=2", "--system_instruction", "Be brief.")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "documents of their own length" in done.stdout
    assert "toy_mc acc" in done.stdout
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["counts"] == {"ok": 6, "skipped": 0, "error": 0}
    by_task = {cell["task"]["name"]: cell["lm_eval"] for cell in data["cells"]}
    assert by_task["toy_mc"]["loglikelihood"] == "context"
    assert by_task["toy_mc"]["num_fewshot"] == 1
    assert by_task["toy_gen"]["system_instruction"] == "Be brief."
    assert data["run"]["suite"]["lm_eval"]["gen_kwargs"] == "max_gen_toks=2"


def test_a_dry_run_loads_no_weights(call, monkeypatch):
    def never(self):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(CheckpointSource, "load", never)
    done = call("--tasks", "toy_mc", "toy_nodata", "--dry-run")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("to run") == 2
    assert done.stdout.count("skip: no data") == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--metadata", "{x"], "--metadata '{x' is not JSON"),
        (["--loglikelihood", "some"], "lm_eval.loglikelihood"),
        (["--include_path", "/no/where"], "'/no/where' is not a folder"),
    ],
)
def test_usage_errors_have_their_exit_code(call, arguments, message):
    done = call("--tasks", "toy_mc", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_the_list_of_tasks_names_them():
    done = CliRunner().invoke(eval_cli.app, ["list", "tasks"])
    assert "lm_eval:NAME" in done.stdout
