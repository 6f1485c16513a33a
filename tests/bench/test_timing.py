"""The clock, the order of runs, memory and the machine's facts."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch

from attnpatch.bench.machine import machine, machine_line
from attnpatch.bench.memory import peak_memory
from attnpatch.bench.timing import alternate, check_device, choose_clock, threads


def test_cpu_time_does_not_count_waiting():
    seconds, result = choose_clock("cpu").time(lambda: time.sleep(0.05) or "done")
    assert result == "done"
    assert seconds < 0.02
    assert choose_clock("wall").time(lambda: time.sleep(0.05))[0] >= 0.05


@pytest.mark.parametrize("count, name", [(1, "cpu"), (2, "wall")])
def test_one_thread_is_timed_by_cpu_time(count, name):
    assert choose_clock("auto", "cpu", count).name == name


def test_runs_alternate_and_warm_up():
    order, steps = [], []
    cases = {"a": lambda: order.append("a") or len(order), "b": lambda: order.append("b") or len(order)}
    results = alternate(cases, 2, warmup=1, step=lambda: steps.append(1))
    assert "".join(order) == "abbaab"
    assert results == {"a": [4, 5], "b": [3, 6]}
    assert len(steps) == 6


def test_threads_come_back():
    before = torch.get_num_threads()
    with threads(before + 1) as count:
        assert torch.get_num_threads() == count == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="at least 1"), threads(0):
        pass


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cpu0", ""])
def test_devices_that_do_not_exist(name):
    with pytest.raises(ValueError, match="cpu, cuda or cuda:<index>"):
        check_device(name)
    with pytest.raises(ValueError, match="is not there"):
        check_device(f"cuda:{torch.cuda.device_count()}")


def test_cpu_clock_refuses_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="use clock='wall'"):
        choose_clock("cpu", "cuda")


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark can be reset on Linux only")
def test_peak_memory_counts_what_was_freed_again():
    size = 64 * 2**20
    torch.ones(size).sum()  # an earlier, higher peak of 256 MiB must not count
    peak, total = peak_memory(lambda: torch.ones(size // 4).sum().item())
    assert total == size // 4
    assert 60 < peak < 80


def test_machine_is_json_and_one_line():
    facts = machine()
    json.dumps(facts)
    line = machine_line(facts)
    assert torch.__version__ in line
    assert "\n" not in line
