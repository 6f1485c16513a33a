"""Batch sizes: searched from the top where memory ends, fixed where that was asked for."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.evaluation import attempts
from attnpatch.evaluation.batch_size import TOKENS, BatchSizes, parse_batch_size, ran_out_of_memory
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.progress import Silent


@pytest.fixture
def small_memory(monkeypatch):
    """Memory for three documents a forward under sliding, for one under triangle; notes the sizes that were tried."""
    score, tried = attempts.SCORERS["prefill"], []

    def scorer(model, documents, batch_size, advance):
        name = attnpatch.patches(model)[-1].methods[0].name
        tried.append((name, batch_size))
        if batch_size > {"sliding": 3, "triangle": 0}.get(name, 100):
            score(model, documents[:batch_size], batch_size, advance)  # one batch went well
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(model, documents, batch_size, advance)

    monkeypatch.setitem(attempts.SCORERS, "prefill", scorer)
    return tried


def numbers(results):
    return [
        {name: cell[name] for name in ("documents", "budget", "status", "depth")}
        | {"accuracy": cell["scores"].get("accuracy"), "metrics": {k: v["value"] for k, v in cell["metrics"].items()}}
        for cell in results.cells
    ]


def test_auto_halves_until_it_fits_and_remembers(small_run, small_memory):
    given = {"methods": ["sliding", "stochastic"], "tasks": ["needle", "copy"], "limit": 9, "seeds": [0]}
    auto = small_run(**given, batch_size="auto")
    sliding = [size for name, size in small_memory if name == "sliding"]
    assert sliding == [9, 4, 2, 2]  # the second task of the same length and mode starts where the first one ended
    assert [size for name, size in small_memory if name == "stochastic"] == [1, 1]
    assert [cell["batch_size"] for cell in auto.cells] == [9, 9, 2, 2, 1, 1]
    calls = {cell["method"]["name"]: cell["report"]["calls"] for cell in auto.cells}
    assert calls == {"stock": 2, "sliding": 2 * 5, "stochastic": 2 * 9}  # layers x batches, failed attempts left out
    one = small_run(**given, batch_size=1)
    for ours, single in zip(numbers(auto), numbers(one), strict=True):
        assert ours.pop("metrics") == pytest.approx(single.pop("metrics"), rel=1e-5)
        assert ours == single
    assert not {cell["key"] for cell in auto.cells[:4]} & {cell["key"] for cell in one.cells}


def test_out_of_memory_fails_the_cell_not_the_run(small_run, small_memory):
    results = small_run(methods=["sliding", "stochastic"], tasks=["needle"], limit=9, seeds=[0], batch_size=9)
    assert [cell["status"] for cell in results.cells] == ["ok", "error", "ok"]
    assert "--batch-size" in results.cells[1]["fix"]
    assert "OutOfMemoryError" in results.cells[1]["traceback"]
    assert results.run["unpatched"] is True


def test_auto_gives_up_at_one_document(small_run, small_memory):
    results = small_run(methods=["triangle"], tasks=["needle"], limit=5, budgets=[], batch_size="auto")
    assert [size for name, size in small_memory if name == "triangle"] == [5, 2, 1]
    assert [cell["status"] for cell in results.cells] == ["ok", "error"]


def test_progress_does_not_count_failed_attempts(small_run, small_memory, monkeypatch):
    shown = []
    monkeypatch.setattr(Silent, "advance", lambda self, documents: shown.append(documents))
    small_run(methods=["sliding"], tasks=["needle"], limit=9, batch_size="auto")
    assert min(shown) < 0
    assert sum(shown) == 2 * 9


class Cell:
    """What a search asks of a planned cell."""

    def __init__(self, documents: int, length: int, name: str = "stock"):
        self.fields, self.length = {"batch_size": "auto"}, length
        self.documents = [type("Document", (), {"input_ids": range(length)})] * documents
        self.task = type("Task", (), {"mode": "prefill", "inputs": None})
        self.method = type("Method", (), {"name": name})


def test_a_cpu_takes_no_more_tokens_than_it_can_hold():
    def first(documents, length, device, processes=1):
        return next(BatchSizes(processes).tries(Cell(documents, length), torch.device(device)))

    assert first(1000, 512, "cpu") == TOKENS["cpu"] // 512
    assert first(1000, 100_000, "cpu") == 1
    assert first(1000, 512, "cuda") == 64
    assert first(10, 512, "cuda") == 10
    assert first(10, 512, "cuda", processes=4) == 3  # every process gets some


@pytest.mark.parametrize("value, size", [("auto", "auto"), ("4", 4), (4, 4)])
def test_batch_sizes_are_read(value, size):
    assert parse_batch_size(value) == size


@pytest.mark.parametrize("value", ["many", 0, -1, 1.5, True, []])
def test_bad_batch_sizes(small_run, value):
    with pytest.raises(UsageError, match="1 or more, or auto"):
        small_run(batch_size=value)


@pytest.mark.parametrize(
    "error, full",
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, full):
    assert ran_out_of_memory(error) is full
