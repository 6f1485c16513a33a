"""`attnpatch train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import refused

SMALL = (
    "method.options={sparse: sliding, sink: 2, local: 8}",
    "router.pool=4",
    "data.sources=[{task: far, omega: 0.5, sandbox: [needle], lengths: [64]}]",
    "data.max_tokens=64",
    "data.pack_tokens=128",
    "training.max_steps=2",
    "evaluation={tasks: [needle], lengths: [64], limit: 1, baselines: [full]}",
)


def words(folder: Path, *more: str) -> list[str]:
    sets = [word for value in (*SMALL, f"training.output_dir={folder}") for word in ("--set", value)]
    return ["train", "flux/sandbox", *sets, *more]


@pytest.mark.parametrize("recipe", ["flux/sandbox", "recipes/lora/sandbox-sliding.yaml", "flux/qwen3-8b"])
def test_check(attnpatch, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = attnpatch("train", recipe, "--check")
    assert result.exit_code == 0, result.output
    assert "is right" in " ".join(result.stdout.split())
    for word in ("model", "method", "trains", "tasks", "steps", "into"):
        assert word in result.stdout
    assert not list(tmp_path.iterdir())  # nothing is read, and nothing written


def test_check_shows_what_was_set(attnpatch):
    given = ("training.max_steps=7", "data.packs_per_step=3", "data.pack_tokens=4096", "lora={}")
    result = attnpatch("train", "flux/sandbox", "--check", *(word for value in given for word in ("--set", value)))
    assert "7 of 3 x 4,096 tokens" in result.stdout
    assert "router and lora" in result.stdout


@pytest.mark.parametrize(
    "more, parts",
    [
        (["--set", "training.max_step=3"], ["unknown key 'training.max_step'. Did you mean 'max_steps'?"]),
        (["--set", "training.max_steps"], ["--set training.max_steps=2"]),
        (["--set", "data.sources.0.omega=1.5"], ["data.sources.0.omega", "1.5"]),
        (["--set", "data.sources.0.omega=null"], ["has no target"]),
        (
            ["--set", "method.name=flx", "--set", "data.pack_tokens=32"],
            ["2 problems", "Did you mean 'flux'?", "data.max_tokens"],
        ),
    ],
)
@pytest.mark.parametrize("check", [[], ["--check"]])
def test_mistakes(attnpatch, tmp_path, more, parts, check):
    refused(attnpatch(*words(tmp_path / "out", *more, *check)), *parts)
    assert not (tmp_path / "out").exists()


def test_unknown_recipe(attnpatch):
    refused(attnpatch("train", "flux/sandbx"), "unknown recipe 'flux/sandbx'. Did you mean 'flux/sandbox'?")


def test_training(attnpatch, small_sandbox, tmp_path):
    """In pieces, to the end, and once more; each call says what it did."""
    first = attnpatch(*words(tmp_path, "--steps", "1"))
    assert (first.exit_code, first.stdout) == (0, ""), first.output
    assert "step 1 of 2; the same command goes on." in first.stderr
    assert not (tmp_path / "router").exists()

    second = attnpatch(*words(tmp_path))
    assert second.exit_code == 0, second.output
    for word in ("what", "needle", "mean keys", "stock", "router", "full"):
        assert word in second.stdout
    assert f"wrote {tmp_path}" in second.stderr
    lines = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert json.loads((tmp_path / "evaluation.json").read_text())["recipe"] == "flux/sandbox"

    third = attnpatch(*words(tmp_path, "--no-evaluate"))
    assert (third.exit_code, third.stdout) == (0, "")

    changed = words(tmp_path, "--no-evaluate", "--set", "router.pool=5")
    refused(attnpatch(*changed), "made by another recipe (router.pool: 4 there, 5 here)", "--restart")
    again = attnpatch(*changed, "--restart", "--steps", "1")
    assert "step 1 of 2" in again.stderr, again.output


def test_errors_while_it_trains(attnpatch, small_sandbox, tmp_path):
    refused(attnpatch(*words(tmp_path / "a", "--set", "model=sandbox:txt")), "Did you mean 'text'?")
    refused(
        attnpatch(*words(tmp_path / "b", "--set", "training.report_to=trackio")),
        "trackio is not installed: pip install trackio",
    )
    assert not list(tmp_path.iterdir())
    bad = "--steps", "0"
    result = attnpatch(*words(tmp_path / "c", *bad))
    assert result.exit_code == 2
    assert "--steps" in result.stderr
