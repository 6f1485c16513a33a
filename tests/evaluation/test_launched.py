"""How a process learns which of several it is, and which whole cells are its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from attnpatch.evaluation import runner
from attnpatch.evaluation.dealing import hands
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.launched import LAUNCHERS, MEETING, Launched, launched
from attnpatch.evaluation.processes import ALONE, Processes, joined
from attnpatch.evaluation.progress import Silent

WHERE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def told(monkeypatch):
    """Set what a launcher tells; nothing else is known."""
    for name in (*MEETING, *(name for names in LAUNCHERS for name in names)):
        monkeypatch.delenv(name, raising=False)

    def tell(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return tell


@pytest.mark.parametrize("start", ["", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_"])
def test_every_launcher(told, start):
    size, local = ("WORLD_SIZE" if start == "" else f"{start}SIZE"), f"{start}LOCAL_RANK"
    told(**{f"{start}RANK": "3", size: "4", "MPI_LOCALRANKID" if start == "PMI_" else local: "1"}, **WHERE)
    assert launched() == Launched(rank=3, count=4, local_rank=1)


def test_the_numbers_of_one_launcher_belong_together(told):
    told(RANK="1", WORLD_SIZE="2", PMI_RANK="0", PMI_SIZE="8", OMPI_COMM_WORLD_SIZE="8", **WHERE)
    assert launched() == Launched(rank=1, count=2, local_rank=0)


@pytest.mark.parametrize("values", [{}, {"WORLD_SIZE": "2"}, {"PMI_RANK": "0", "PMI_SIZE": "1"},
                                    {"RANK": "0", "WORLD_SIZE": "1", **WHERE}])  # fmt: skip
def test_one_process(told, values):
    told(**values)
    with joined() as processes:
        assert processes is ALONE
    assert ALONE.everyones(1) == [1]
    assert ALONE.mains(2) == 2
    assert ALONE.main_first(lambda: 3) == 3


@pytest.mark.parametrize(
    "values, message",
    [
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT, where they meet"),
        ({"RANK": "2", "WORLD_SIZE": "2", **WHERE}, "RANK=2 has to be below WORLD_SIZE=2"),
        ({"PMI_RANK": "x", "PMI_SIZE": "2", **WHERE}, "PMI_RANK='x' is not a number"),
    ],
)
def test_what_is_wrong_is_said(told, values, message):
    told(**values)
    with pytest.raises(UsageError, match=message), joined():
        pass


def cell(method: str, task: str, whole: bool = True, skip=None) -> SimpleNamespace:
    return SimpleNamespace(
        name=f"{method} {task}", task_name=task, length=None, skip=skip, documents=[1, 2],
        task=None if skip else SimpleNamespace(whole=whole),
    )  # fmt: skip


def test_hands_hold_the_methods_of_a_task():
    cells = [cell(method, task) for method in ("a", "b", "c") for task in ("one", "two")]
    cells.insert(3, cell("a", "ours", whole=False))
    cells.append(cell("a", "gone", skip=True))
    found = [[one.name for one in hand] for hand in hands(cells, 2)]
    assert found == [["a ours"], ["a gone"], ["a one", "b one"], ["c one", "a two"], ["b two", "c two"]]
    assert [one for hand in hands(cells, 1) for one in hand] == cells


def test_each_process_runs_its_own_cell_alone(monkeypatch):
    monkeypatch.setattr(runner, "run_cell", lambda model, cell, processes, *rest: (cell.name, processes))
    monkeypatch.setattr(Processes, "everyones", lambda self, mine: ["first's", mine])
    second = runner.Runner([], None, None, resume=True, processes=Processes(1, 2))
    assert second._run_dealt(None, [cell("a", "one"), cell("b", "one")], Silent()) == ["first's", ("b one", ALONE)]
    assert second._run_dealt(None, [cell("a", "one")], Silent()) == ["first's"]
