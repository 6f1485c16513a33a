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


def in_two_processes(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    two = subprocess.run(
        [*launcher, "-m", "attnpatch.evaluation", *arguments],
        env=environment(), capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    return two


def same_numbers(tmp_path: Path) -> dict:
    """The results of the run in `two`, which are those of the run in `one`, and so are the samples."""
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert lasting(found[1]) == lasting(found[0])
    samples = [{path.name: path.read_bytes() for path in (tmp_path / n / "samples").iterdir()} for n in ("one", "two")]
    assert samples[0] == samples[1]
    assert found[1]["run"]["machine"]["processes"] == 2
    assert found[1]["run"]["unpatched"] is True
    return found[1]


def test_two_processes_give_the_numbers_of_one(request_of, tmp_path):
    tasks = ("needle", "copy_decode", "perplexity")
    two = in_two_processes(request_of(tmp_path / "two", *tasks))
    one = CliRunner().invoke(app, request_of(tmp_path / "one", *tasks))
    assert one.exit_code == 0, one.output
    found = same_numbers(tmp_path)
    assert {row["method"] for row in found["run"]["speed"]} == {"stock", "sliding", "stochastic"}
    assert found["counts"] == {"ok": 9, "skipped": 9, "error": 0}
    assert two.stdout.count("| stochastic @12 |") == one.stdout.count("| stochastic @12 |") > 0  # printed once
    assert two.stderr.count("2 processes share") == 1


def test_whole_cells_are_dealt_out(checkpoint, tmp_path):
    """9 cells: in the last hand there is none for the second process."""

    def arguments(out: str) -> list[str]:
        return [
            "run", "--model", str(checkpoint), "--methods", "stochastic:window=8", "sliding:window=8",
            "--tasks", "toy_mc", "toy_gen", "toy_roll", "--limit", "3", "--batch-size", "2", "--speed-rounds", "0",
            "--seeds", "0", "--include-path", str(TASK_FILES), "--output-path", str(tmp_path / out),
        ]  # fmt: skip

    two = in_two_processes(arguments("two"))
    assert "each process takes whole cells: toy_gen, toy_mc, toy_roll" in two.stderr
    one = CliRunner().invoke(app, arguments("one"))
    assert one.exit_code == 0, one.output
    assert same_numbers(tmp_path)["counts"] == {"ok": 9, "skipped": 0, "error": 0}


def test_pictures_in_two_processes(tmp_path):
    def arguments(out: str) -> list[str]:
        return [
            "run", "--model", "sandbox:vision", "--methods", "pai", "--tasks", "scenes_pope", "--limit", "2",
            "--speed-rounds", "0", "--output-path", str(tmp_path / out),
        ]  # fmt: skip

    in_two_processes(arguments("two"))
    one = CliRunner().invoke(app, arguments("one"))
    assert one.exit_code == 0, one.output
    assert same_numbers(tmp_path)["counts"] == {"ok": 4, "skipped": 0, "error": 0}


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
    """The processes are told who they are as Open MPI does it."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMPI_COMM_WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "attnpatch.evaluation", "--methods", "slidng", "--output-path", str(tmp_path)],
            env=environment(**where, OMPI_COMM_WORLD_RANK=str(rank)), stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    told = [process.communicate(timeout=SECONDS)[1] for process in both]
    assert "Did you mean 'sliding'" in told[0]
    assert told[1] == ""
    assert [process.returncode for process in both] == [2, 1]
