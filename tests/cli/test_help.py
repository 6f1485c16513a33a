"""Every --help page ends with examples, and the examples run."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from attnpatch.bench import kernels, model, overhead
from attnpatch.bench.models import default_config
from attnpatch.bench.result import Column, Result
from attnpatch.cli.main import app
from attnpatch.methods.vision.profile import Profile
from attnpatch.vision import calibration, looking, maps

PROGRAM = "attnpatch"
ROOT = typer.main.get_command(app)


def commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def example_lines(path: tuple[str, ...]) -> list[str]:
    text = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).stdout
    after = text.partition("Examples:")[2].splitlines()
    return [line.strip() for line in after if line.strip()]


EXAMPLES = sorted({line for path in commands() for line in example_lines(path)})


def test_there_are_commands():
    assert {("list",), ("show",), ("inspect",), ("env",), ("sandbox", "train"), ("bench", "model")} <= set(commands())


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help(path):
    result = CliRunner().invoke(app, [*path, "-h"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    lines = example_lines(path)
    assert lines, "no examples"
    for line in lines:  # one that is wrapped cannot be copied, and starts with another word
        assert line.split()[0] == PROGRAM, line
    assert any(line.split()[1 : len(path) + 1] == list(path) for line in lines), "no example of the command itself"


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_run(line, light, small_sandbox, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What takes minutes or a network is replaced behind the command line; its arguments must still fit."""
    for module, name in ((kernels, "bench_kernels"), (model, "bench_model"), (overhead, "bench_overhead")):
        monkeypatch.setattr(f"attnpatch.cli.bench.{name}", stand_in(getattr(module, name)))
    from attnpatch.sandbox.text import train

    def trained(folder: Path, **options: Any) -> SimpleNamespace:
        inspect.signature(real_train).bind(folder, **options)
        return SimpleNamespace(finished=True, step=1, folder=folder)

    real_train = train.train
    monkeypatch.setattr(train, "train", trained)
    real_config = model.load_config
    hub = {"Qwen/Qwen3-8B": default_config()}
    for place in ("attnpatch.cli.inspect_model.load_config", "attnpatch.bench.model.load_config"):
        monkeypatch.setattr(place, lambda name, **extra: hub.get(name) or real_config(name, **extra))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()

    def calibrated(*args: Any, **kwargs: Any) -> Profile:
        bound = inspect.signature(real_calibrate).bind(*args, **kwargs)
        return Profile.of(bound.arguments["method"], default_config(), {"dims": [3]}, bound.arguments["command"])

    real_calibrate = calibration.calibrate
    monkeypatch.setattr(calibration, "calibrate", calibrated)
    monkeypatch.setattr("attnpatch.vision.loading.load_vision_model", lambda *args, **kwargs: (None, None))
    picture = Image.new("RGB", (4, 4))
    picture.save(tmp_path / "photo.jpg")

    def looked(*args: Any, **kwargs: Any) -> looking.Looks:
        asked = inspect.signature(real_look).bind(*args, **kwargs).arguments
        layers = [2] if asked["layers"] else [0, 1]
        attention, tiles = torch.rand(len(layers), 2, 4), [maps.Tile(torch.arange(4).view(2, 2), (0, 0, 4, 4))]
        runs = [
            looking.Look(label, "yes", "yes", attention, attention.mean(1) > 0.5, "phi")
            for label in ("stock", *(label for label, _ in asked["methods"]))
        ]
        return looking.Looks(picture, asked["question"], asked["token"], layers, tiles, runs)

    real_look = looking.look
    monkeypatch.setattr(looking, "look", looked)


def stand_in(function):
    """Takes what `function` takes and returns an empty result."""

    def instead(*args: Any, **kwargs: Any) -> Result:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.arguments["progress"](1, 1, "done")
        machine = overhead.machine()
        return Result(function.__name__, "a title", {}, [Column("a", "{a}")], [{"a": 1}], machine)

    return instead


def test_unknown_command_is_guessed():
    result = CliRunner().invoke(app, ["lst"])
    assert result.exit_code == 2
    assert "Did you mean 'list'?" in result.stderr
