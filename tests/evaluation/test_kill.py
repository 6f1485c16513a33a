"""Runs that are killed, at ten moments, and runs that share a folder: in the end the results are those of one run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnpatch.cli.eval import app
from attnpatch.evaluation.lasting import lasting

SECONDS = 120  # no process may take longer
KILLS = 10

# Imports once, and then runs every line of its input in a fork, killed so many seconds after its start.
SERVER = """
import json, os, signal, sys, threading, time
import torch
torch.set_num_threads(1)
from attnpatch.cli.eval import app
import attnpatch.evaluation.evaluate, attnpatch.evaluation.page, attnpatch.evaluation.plots
import attnpatch.evaluation.tables, matplotlib.figure
for line in sys.stdin:
    seconds, folder, arguments = json.loads(line)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        sys.argv[1:] = arguments
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            app(arguments, standalone_mode=False)
        finally:
            os._exit(0)
    if seconds is not None:
        time.sleep(max(0, start + seconds - time.monotonic()))
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(time.monotonic() - start, flush=True)
"""

STOPS = """
import sys, time
from attnpatch.cli.eval import app
from attnpatch.evaluation import runner
score = runner.SCORERS["prefill"]
calls = []
def slow(model, documents, size, advance):
    calls.append(1)
    if len(calls) > 2:
        open(sys.argv[1], "w").close()
        time.sleep(120)
    return score(model, documents, size, advance)
runner.SCORERS["prefill"] = slow
app(sys.argv[2:])
"""


@pytest.fixture
def arguments(checkpoint):
    """A run in the folder it is started in."""
    return [
        "run", "--model", str(checkpoint), "--methods", "sliding", "stochastic", "--budgets", "12",
        "--tasks", "needle", "copy_decode", "--lengths", "96", "--limit", "8", "--seeds", "0", "--speed-rounds", "1",
        "--output-path", "out",
    ]  # fmt: skip


@pytest.fixture
def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def files(folder: Path) -> dict[str, bytes]:
    """Cells and samples as they lie on disk, without the times."""
    found = {}
    for path in sorted((folder / "out").rglob("*.json*")):
        if path.suffix == ".tmp":
            continue
        if path.parent.name == "cells":
            cell = json.loads(path.read_text())
            whole = {"run": {"machine": {}}, "summary": [], "cells": [cell]}
            found[path.name] = json.dumps(lasting(whole)["cells"]).encode()
        elif path.parent.name == "samples":
            found[path.name] = path.read_bytes()
    return found


def results(folder: Path) -> str:
    return json.dumps(lasting(json.loads((folder / "out" / "results.json").read_text())))


def test_killed_at_ten_moments(arguments, environment, tmp_path):
    """Each in a folder of its own, from the first line of the run to its last file; most while cells are written."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def run(folder: Path, seconds: float | None = None) -> float:
        folder.mkdir(exist_ok=True)
        server.stdin.write(json.dumps([seconds, str(folder), arguments]) + "\n")
        server.stdin.flush()
        return float(server.stdout.readline())

    try:
        whole = run(tmp_path / "whole")
        expected = files(tmp_path / "whole"), results(tmp_path / "whole")
        assert len(expected[0]) == 2 * 6
        moments, kept = random.Random(5), []
        for number in range(KILLS):
            folder = tmp_path / str(number)
            run(folder, whole * ((number + moments.random()) / KILLS) ** 1.5)
            half = files(folder) if (folder / "out").exists() else {}
            kept.append(len(half))
            assert {name: text for name, text in expected[0].items() if name in half} == half
            run(folder)
            assert (files(folder), results(folder)) == expected
    finally:
        server.kill()
        server.communicate()
    assert len(set(kept)) > 2, f"all kills came at the same place: {kept}"


def test_killed_in_a_cell(arguments, environment, tmp_path, monkeypatch):
    out, flag = tmp_path / "out", tmp_path / "third-prefill-began"
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS, str(flag), *arguments], env=environment, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert flag.exists(), process.communicate(timeout=10)[1].decode()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    kept = {path.name: path.read_bytes() for path in (out / "cells").glob("*.json")}
    assert len(kept) == 4

    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "4 of 6 cells are done already" in done.stderr
    after = {path.name: path.read_bytes() for path in (out / "cells").glob("*.json")}
    assert len(after) == 6
    assert {name: after[name] for name in kept} == kept
    assert (out / "results.json").is_file()


def test_two_runs_at_once_in_one_folder(arguments, environment, tmp_path, monkeypatch):
    (tmp_path / "alone").mkdir()
    (tmp_path / "shared").mkdir()
    command = [sys.executable, "-m", "attnpatch.evaluation", *arguments]
    told = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, cwd=tmp_path / "shared", **told) for _ in range(2)]
    ends = [process.communicate(timeout=SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert all("6 ok" in error for _, error in ends)
    monkeypatch.chdir(tmp_path / "alone")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert files(tmp_path / "shared") == files(tmp_path / "alone")
    assert results(tmp_path / "shared") == results(tmp_path / "alone")
    assert not list((tmp_path / "shared").rglob("*.tmp"))
    pictures = list((tmp_path / "shared").rglob("*.png"))
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in pictures)
