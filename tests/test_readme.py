"""The README tells the truth: its examples run, its commands parse, its numbers stand in committed results."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import attnpatch
from attnpatch.patching import method as registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def section(name: str) -> str:
    found = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", README, re.S)
    assert found, f"the README has no section {name}"
    return found[1]


def test_python_examples_run_in_order():
    namespace: dict = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", README, re.S):
            exec(compile(block, "README.md", "exec"), namespace)
        assert not attnpatch.patches(namespace["model"])
    finally:
        registry._registry.pop("head_dropout", None)


def commands() -> list[list[str]]:
    blocks = re.findall(r"```\n(.*?)```", README, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(attnpatch(?:-eval)? [^`]+)`", README)
    return [shlex.split(line) for line in [*lines, *inline] if line.startswith("attnpatch")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_are_understood(command, tmp_path, monkeypatch):
    from attnpatch.cli import eval as evaluation
    from attnpatch.cli import main

    monkeypatch.chdir(tmp_path)  # some write files
    app = evaluation.app if command[0] == "attnpatch-eval" else main.app
    words = command[1:]
    # Minutes of work are the business of other tests; here the words have to be understood.
    words += {"bench": ["--help"], "run": ["--dry-run"], "train": ["--check"]}.get(words[0], [])
    if "Qwen/Qwen3-8B" in words:  # no hub here: another model by the same words
        words[words.index("Qwen/Qwen3-8B")] = "sandbox:text"
        words = [word for word in words if word not in ("--device-map", "auto")]
        words = ["512" if word in ("4096", "8192") else word for word in words]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_method_has_its_row():
    rows = re.findall(r"^\| `(\w+)` \|", README, re.M)
    assert sorted(rows) == sorted(attnpatch.methods())


@pytest.mark.parametrize("name", ["results", "speed", "flux", "vision"])
def test_numbers_stand_in_committed_files(name):
    text = section(name)
    sources = [ROOT / path for path in re.findall(r"`(evals/results/[\w./-]+\.(?:md|json))`", text)]
    assert sources, f"section {name} names no committed file"
    assert all(path.suffix != ".json" or json.loads(path.read_text()) for path in sources)
    known = " ".join(path.read_text() for path in sources)
    numbers = [
        number for line in text.splitlines() if line.startswith("|") for number in re.findall(r"\d+\.\d+", line)
    ]
    assert numbers
    assert [number for number in numbers if number not in known] == []
