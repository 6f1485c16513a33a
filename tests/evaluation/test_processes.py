"""Several processes: the numbers of one, and no process waits for one that is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnpatch.cli.eval import app
from attnpatch.evaluation.lasting import lasting
from attnpatch.evaluation.processes import ALONE, Processes, joined

TASK_FILES = Path(__file__).parent / "lm_eval" / "task_files"
SECONDS = 120  # no process may take longer

# In the worker the second cell raises, and the fourth never ends.
BROKEN = """
import os, sys, time
from attnpatch.cli.eval import app
from attnpatch.evaluation import attempts
score, calls = attempts.SCORERS["prefill"], []
def broken(*given, **more):
    calls.append(1)
    if len(calls) == 2:
        raise RuntimeError("only here")
    if len(calls) == 4:
        open(sys.argv[1], "w").close()
        time.sleep(600)
    return score(*given, **more)
if os.environ["RANK"] == "1":
    attempts.SCORERS["prefill"] = broken
app(sys.argv[2:])
"""


@pytest.fixture
def request_of(checkpoint):
    """Arguments of a small run: batches that do not come out even, a method that draws for every batch."""

    def arguments(out: Path, *tasks: str) -> list[str]:
        return [
            "run", "--model", str(checkpoint), "--methods", "sliding", "stochastic", "--budgets", "12",
            "--tasks", *tasks, "--lengths", "96", "100000", "--limit", "5", "--batch-size", "2", "--seeds", "0",
            "--speed-rounds", "1", "--include-path", str(TASK_FILES), "--output-path", str(out),
        ]  # fmt: skip

    return arguments


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def test_two_processes_give_the_numbers_of_one(request_of, tmp_path):
    tasks = ("needle", "copy_decode", "perplexity", "toy_mc")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    two = subprocess.run(
        [*launcher, "-m", "attnpatch.evaluation", *request_of(tmp_path / "two", *tasks)],
        env=environment(), capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    one = CliRunner().invoke(app, request_of(tmp_path / "one", *tasks))
    assert one.exit_code == 0, one.output
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert found[1]["run"]["machine"]["processes"] == 2
    assert found[1]["run"]["unpatched"] is True
    assert {row["method"] for row in found[1]["run"]["speed"]} == {"stock", "sliding", "stochastic"}
    assert lasting(found[1]) == lasting(found[0])
    assert found[1]["counts"] == {"ok": 10, "skipped": 11, "error": 0}  # toy_mc is too short for 12 keys
    samples = [{path.name: path.read_bytes() for path in (tmp_path / n / "samples").iterdir()} for n in ("one", "two")]
    assert samples[0] == samples[1]
    assert two.stdout.count("| stochastic @12 |") == one.stdout.count("| stochastic @12 |") > 0  # printed once
    assert two.stderr.count("2 processes share") == 1
    assert "the main process runs lm-eval's tasks alone, the others wait: toy_mc" in two.stderr


def test_a_worker_that_raises_or_dies(request_of, tmp_path):
    out, flag = tmp_path / "out", tmp_path / "fourth-cell-began"
    arguments = request_of(out, "needle", "copy")
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    main, worker = (
        subprocess.Popen(
            [sys.executable, "-c", BROKEN, str(flag), *arguments],
            env=environment(**where, RANK=str(rank)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )
        for rank in (0, 1)
    )  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        while not flag.exists() and main.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert flag.exists()
        worker.send_signal(signal.SIGKILL)
        _, told = main.communicate(timeout=30)
    finally:
        for process in (main, worker):
            process.kill()
            process.wait()
    assert main.returncode == 1
    assert "cannot reach the others" in told
    assert "the same command goes on from them" in told
    kept = [json.loads(path.read_text()) for path in (out / "cells").glob("*.json")]
    ran = [cell for cell in kept if cell["status"] != "skipped"]
    assert sorted(cell["status"] for cell in ran) == ["error", "ok", "ok"]
    failed = next(cell for cell in ran if cell["status"] == "error")
    assert failed["reason"] == "RuntimeError: only here"
    assert "broken" in failed["traceback"]

    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    assert "2 of 12 cells are done already" in again.stderr
    assert json.loads((out / "results.json").read_text())["counts"] == {"ok": 6, "skipped": 6, "error": 0}


def test_a_wrong_request_is_told_once(tmp_path):
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "attnpatch.evaluation", "--methods", "slidng", "--output-path", str(tmp_path)],
            env=environment(**where, RANK=str(rank)), stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    told = [process.communicate(timeout=SECONDS)[1] for process in both]
    assert "Did you mean 'sliding'" in told[0]
    assert told[1] == ""
    assert [process.returncode for process in both] == [2, 1]


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined() as processes:
        assert processes is ALONE
    assert ALONE.everyones(1) == [1]
    assert ALONE.mains(2) == 2
    assert ALONE.main_first(lambda: 3) == 3


def test_a_launcher_of_one_process(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with joined() as processes:
        assert processes == Processes()
