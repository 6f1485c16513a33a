"""Whatever is wrong with the input ends in a clear message or in a cell that says so; never in a wrong number."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from attnpatch.cli.eval import app
from attnpatch.evaluation import Results, tasks
from attnpatch.evaluation.lm_eval import names
from tests.evaluation.lm_eval.conftest import TASK_FILES

BROKEN = """
asked = []


def score(doc, results):
    asked.append(doc)
    if len(asked) % 3 == 0:
        raise RuntimeError("no luck")
    return {"exact_match": 1.0}


def text(doc):
    raise RuntimeError("no luck")


def data(**_):
    raise RuntimeError("no luck")
"""


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    monkeypatch.setattr(Results, "plot", lambda self, folder: [])


@pytest.fixture
def run(checkpoint, tmp_path):
    def call(*more: object, tasks=("needle", "copy"), lengths=(96,), methods=("sliding:window=12",)):
        words = ["run", "--model", checkpoint, "--methods", *methods, "--tasks", *tasks, "--lengths", *lengths]
        words += ["--limit", 3, "--output-path", tmp_path / "out", "--speed-rounds", 0, *more]
        return CliRunner().invoke(app, [str(word) for word in words])

    return call


def cells(tmp_path) -> dict[tuple[str, str], dict]:
    found = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    return {(cell["method"]["name"], cell["task"]["name"]): cell for cell in found}


def numbers(tmp_path) -> dict:
    kept = ("status", "metrics", "scores", "documents")
    return {where: {name: cell[name] for name in kept} for where, cell in cells(tmp_path).items()}


def message(done) -> str:
    return " ".join(done.stderr.split())


def test_truncated_cell_files_are_computed_again(run, tmp_path):
    assert run().exit_code == 0
    before, files = numbers(tmp_path), sorted((tmp_path / "out" / "cells").iterdir())
    for path, part in zip(files, (0, 1, 0.5, 0.99), strict=True):
        text = path.read_text()
        path.write_text(text[: int(part * len(text)) if part < 1 else -2])
    assert run("--strict").exit_code == 0
    assert numbers(tmp_path) == before
    assert json.loads((tmp_path / "out" / "results.json").read_text())["run"]["reused_cells"] == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}', '{"run": {}}'])
def test_truncated_results_are_not_shown(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "is not a results.json of attnpatch-eval" in message(done)


def test_a_task_that_raises_while_it_makes_its_documents(run, tmp_path, monkeypatch):
    def explode(length, count, seed):
        raise KeyError("lost")

    known = tasks.available
    monkeypatch.setattr(
        tasks, "available", lambda *given: {**(found := known(*given)), "copy": replace(found["copy"], build=explode)}
    )
    done = run()
    assert done.exit_code == 0, done.output
    found = cells(tmp_path)
    assert found["stock", "copy"]["status"] == "skipped"
    assert found["stock", "copy"]["reason"] == "task 'copy' cannot build its documents: KeyError: 'lost'"
    assert found["stock", "needle"]["status"] == "ok"
    assert "KeyError: 'lost'" in message(done)
    assert "copy" not in {row.task for row in Results.load(tmp_path / "out").rows}


@pytest.mark.parametrize(
    "broken, status",
    [
        ("process_results: !function broken.score", "error"),
        ("doc_to_text: !function broken.text", "skipped"),
        ("custom_dataset: !function broken.data", "skipped"),
    ],
)
def test_a_task_file_that_raises_in_the_middle(run, tmp_path, broken, status):
    """At the third document: the first two are no result."""
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "documents.py").write_text((TASK_FILES / "documents.py").read_text())
    lines = (TASK_FILES / "toy_gen.yaml").read_text().replace("toy_gen", "toy_broken").splitlines()
    kept = [line for line in lines if line.partition(":")[0] != broken.partition(":")[0]]
    (tmp_path / "toy_broken.yaml").write_text("\n".join([*kept, broken]))
    done = run("--include-path", tmp_path, tasks=["needle", "toy_broken"])
    assert done.exit_code == 0, done.output
    found = cells(tmp_path)
    assert {found[method, "toy_broken"]["status"] for method in ("stock", "sliding")} == {status}
    assert "no luck" in found["stock", "toy_broken"]["reason"]
    assert not found["stock", "toy_broken"]["metrics"]
    assert found["stock", "needle"]["status"] == "ok"
    assert "no luck" in message(done)


def test_a_length_above_the_positions(run, checkpoint, tmp_path):
    longest = json.loads((checkpoint / "config.json").read_text())["max_position_embeddings"]
    done = run(lengths=[longest + 1])
    assert done.exit_code == 1
    assert f"{longest + 1} tokens are more than the model's {longest} positions" in message(done)
    assert f"take --lengths up to {longest}" in message(done)
    assert run(lengths=[96, longest + 1]).exit_code == 0
    assert run("--strict", lengths=[96, longest + 1]).exit_code == 1


def test_missing_data(run, tmp_path):
    done = run("--include-path", TASK_FILES, tasks=["needle", "toy_nodata"])
    assert done.exit_code == 0
    assert cells(tmp_path)["stock", "toy_nodata"]["status"] == "skipped"
    assert "hf download --repo-type dataset nobody/no-such-dataset" in message(done)


def test_a_missing_extra(run, monkeypatch):
    monkeypatch.setattr(names, "has_lm_eval", lambda: False)
    done = run(tasks=["hellaswag"])
    assert done.exit_code == 2
    assert 'after pip install "attnpatch[eval]", lm-eval\'s' in message(done)


@pytest.mark.parametrize(
    "line, words",
    [
        ("methdos: [stock]", "unknown key 'methdos'. Did you mean 'methods'"),
        ("tasks: [{name: needle, limt: 3}]", "unknown key 'tasks.0.limt'. Did you mean 'limit'"),
        (
            "methods: [{name: sliding, optoins: {}}]",
            "unknown key 'optoins' in method 'sliding'. Did you mean 'options'",
        ),
        ("methods: [{name: sliding, options: {windwo: 3}}]", "Did you mean 'window'"),
        ("lm_eval: {num_fewsht: 3}", "unknown key 'lm_eval.num_fewsht'. Did you mean 'num_fewshot'"),
        ("reported: [{nmae: x}]", "unknown key 'reported.0.nmae'. Did you mean 'name'"),
        ("methods: [", "cannot be read"),
    ],
)
def test_a_suite_with_unknown_keys(checkpoint, tmp_path, line, words):
    rest = {"methods": "methods: [stock]", "tasks": "tasks: [needle]", "lengths": "lengths: [96]"}
    rest.pop(line.partition(":")[0], None)
    (tmp_path / "mine.yaml").write_text("\n".join([*rest.values(), line]))
    for command in ("run", "check"):
        done = CliRunner().invoke(app, [command, "--suite", str(tmp_path / "mine.yaml"), "--model", str(checkpoint)])
        assert done.exit_code == 2
        assert words in message(done)


def test_a_method_that_is_not_trained_leaves_the_others(small_run, sandbox_model, sandbox_tokenizer):
    untrained = {"name": "flux", "options": {"router": "./runs/none"}, "label": "routed", "recipe": "flux/sandbox"}
    results = small_run(methods=["sliding:window=8", untrained], tasks=["needle"], budgets=[])
    assert {cell["status"] for cell in results.cells if cell["method"]["label"] != "routed"} == {"ok"}
    (cell,) = [cell for cell in results.cells if cell["method"]["label"] == "routed"]
    assert cell["status"] == "skipped"
    assert cell["reason"].startswith("not trained: ")
    assert cell["fix"] == "train it: attnpatch train flux/sandbox"
