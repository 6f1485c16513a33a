"""`attnpatch bench`: arguments arrive, results are printed and written, errors come before the runs."""

from __future__ import annotations

import inspect
import json
import re
import shlex

import pytest

from attnpatch.bench.kernels import bench_kernels
from attnpatch.bench.model import bench_model
from attnpatch.bench.overhead import bench_overhead
from attnpatch.bench.routing import bench_routing
from attnpatch.cli import bench

from .conftest import refused

MODEL = ("bench", "model", "--config", "sandbox:text", "--lengths", "40", "96", "--repeats", "1", "--layers", "1")


def test_model(attnpatch, small_sandbox, tmp_path):
    words = (*MODEL, "--method", "sliding:window=16,sink=2", "--output-dir", tmp_path / "out")
    result = attnpatch(*words)
    assert result.exit_code == 0, result.output
    assert "sliding(window=16, sink=2" in result.stdout
    written = json.loads((tmp_path / "out" / "model.json").read_text())
    assert [row["length"] for row in written["rows"]] == [40, 96]
    assert written["settings"]["model"]["num_hidden_layers"] == 1
    assert sorted(shlex.split(written["command"])) == sorted(["attnpatch", *map(str, words)])
    assert written["machine"]["torch"]
    assert [len(row["runs"]["stock"]) for row in written["rows"]] == [1, 1]
    table = (tmp_path / "out" / "model.md").read_text()
    assert re.search(r"^\| 96 \| .*chunked", table, re.MULTILINE)
    assert (tmp_path / "out" / "model.png").read_bytes().startswith(b"\x89PNG")
    assert all(str(file) in result.stderr for file in (tmp_path / "out").iterdir())


def test_model_json_is_nothing_but_json(attnpatch, small_sandbox):
    shown = json.loads(attnpatch(*MODEL, "--json", "--method", "stochastic:window=8").stdout)
    assert shown["settings"]["method"]["name"] == "stochastic"
    assert shown["settings"]["method"]["config"]["window"] == 8


def test_model_routed(attnpatch, small_sandbox, tmp_path):
    words = (
        "--method",
        "flux:local=16,sink=2",
        "--omega",
        "0.5",
        "--sparse",
        "triangle",
        "--layers",
        "2",
        "--no-plot",
    )
    result = attnpatch(*MODEL[:-2], *words, "--output-dir", tmp_path)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "routing.json").read_text())
    assert [row["length"] for row in written["rows"]] == [40, 96]
    assert all(row["omega"] == 0.5 and row["router_us"] > 0 for row in written["rows"])
    config = written["settings"]["method"]["config"]
    assert (config["plan"], config["sparse"], config["local"], config["sink"]) == ([1, 0], "triangle", 16, 2)
    assert "--omega 0.5" in written["command"]


def test_the_command_of_the_issue(attnpatch, monkeypatch):
    """Its defaults are minutes of work: here it is what reaches the benchmark."""
    asked = {}
    monkeypatch.setattr("attnpatch.cli.bench.bench_routing", lambda config, **named: asked.update(named) or 1 / 0)
    attnpatch("bench", "model", "--method", "flux", "--omega", "0.5")
    assert (asked["omega"], asked["method_options"], asked["layers"]) == (0.5, {}, 2)


def test_kernels(attnpatch, tmp_path):
    words = ("--lengths", "64", "150", "--windows", "16", "32", "--repeats", "1", "--output-dir", tmp_path)
    result = attnpatch("bench", "kernels", *words)
    assert result.exit_code == 0, result.output
    assert "buckets" in result.stdout
    written = json.loads((tmp_path / "kernels.json").read_text())
    assert {row["length"] for row in written["rows"]} == {64, 150}
    assert {row["window"] for row in written["rows"] if row["kernel"] == "window"} == {16, 32}
    assert max(row["error"] for row in written["rows"]) < 1e-5
    assert (tmp_path / "kernels.png").is_file()


def test_overhead(attnpatch, tmp_path):
    words = ("bench", "overhead", "--layers", "1", "3", "--repeats", "1", "--output-dir", tmp_path, "--no-plot")
    assert "µs per layer" in attnpatch(*words).stdout
    assert [row["layers"] for row in json.loads((tmp_path / "overhead.json").read_text())["rows"]] == [1, 3]
    assert not (tmp_path / "overhead.png").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (("model", "--method", "sldng"), "Did you mean 'sliding'?"),
        (("model", "--method", "sliding:window=-1"), "window=-1"),
        (("model", "--method", "sliding:window"), "cannot read 'window'"),
        (("model", "--dtype", "bfloat"), "Did you mean 'bfloat16'?"),
        (("model", "--device", "tpu"), "cpu, cuda"),
        (("model", "--device", "cuda:99"), "is not there"),
        (("model", "--clock", "sun"), "cpu, wall"),
        (("model", "--layers", "99"), "1 to 28"),
        (("model", "--lengths", "1"), ">= 2"),
        (("model", "--config", "sandbox:txt"), "Did you mean 'text'?"),
        (("model", "--omega", "0.5"), "not of sliding"),
        (("model", "--method", "flx", "--omega", "0.5"), "Did you mean 'flux'?"),
        (("model", "--method", "flux:plan=sparse", "--omega", "0.5"), "plan cannot be given"),
        (("model", "--sparse", "triangle"), "goes with --omega"),
        (("kernels", "--windows", "2"), "windows"),
        (("kernels", "--lengths", "1"), "lengths"),
        (("kernels", "--dtype", "bfloat"), "Did you mean 'bfloat16'?"),
        (("kernels", "--device", "tpu"), "cpu, cuda"),
        (("overhead", "--layers", "4", "4"), "two or more"),
        (("overhead", "--method", "stok"), "Did you mean 'stock'?"),
    ],
)
def test_refusals(attnpatch, words, said):
    refused(attnpatch("bench", *words), said)


@pytest.mark.parametrize(
    "command, function",
    [
        (bench.kernels, bench_kernels),
        (bench.model, bench_model),
        (bench.model, bench_routing),
        (bench.overhead, bench_overhead),
    ],
)
def test_defaults_are_those_of_the_function(command, function):
    typed, called = inspect.signature(command).parameters, inspect.signature(function).parameters
    shared = set(typed) & set(called) - {"method", "omega"}  # without --omega it is another benchmark
    assert {"repeats", "device", "clock"} <= shared
    assert {name: typed[name].default for name in shared} == {name: called[name].default for name in shared}


def test_output_is_checked_before_the_runs(attnpatch, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("ran")

    monkeypatch.setattr("attnpatch.cli.bench.bench_model", never)
    (tmp_path / "file").touch()
    refused(attnpatch("bench", "model", "--output-dir", tmp_path / "file"), "is a file")
    monkeypatch.setattr("attnpatch.bench.result.find_spec", lambda name: None)
    refused(attnpatch("bench", "model", "--output-dir", tmp_path), "attnpatch[eval]", "--no-plot")


@pytest.mark.parametrize("words", [("--lengths", "many"), ("--repeats", "0"), ("--lenths", "3")])
def test_options_that_cannot_be_parsed(attnpatch, words):
    result = attnpatch("bench", "model", *words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
