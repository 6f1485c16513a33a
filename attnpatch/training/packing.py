"""Which samples share a pack, decided on their lengths alone: any step is planned without reading a token."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True)
class Draw:
    """One sample to be made: row `row` of source `source`, in its pass number `epoch` over the rows."""

    source: int
    epoch: int
    row: int
    length: int


@dataclass
class Rows:
    """The rows of one source as the order sees them."""

    task: str
    weight: float
    lengths: list[int]
    shuffle: bool = True


@dataclass
class _Turn:
    """Something that is drawn from in turn, and how often it was."""

    weight: float
    draw: Callable[[], Draw]
    count: int = field(default=0)


def epoch_order(seed: int, source: int, epoch: int, rows: int, shuffle: bool) -> list[int]:
    """The order of the rows in one epoch."""
    order = list(range(rows))
    if shuffle:
        Random(f"order/{seed}/{source}/{epoch}").shuffle(order)
    return order


def draws(sources: list[Rows], seed: int, balance: bool) -> Iterator[Draw]:
    """Samples without end: tasks take turns, within a task its sources by weight, within a source its rows.

    Without `balance` all sources take turns by weight, whatever their task.
    """
    rows = [_Turn(source.weight, _rows(source, index, seed)) for index, source in enumerate(sources)]
    if balance:
        tasks: dict[str, list[_Turn]] = {}
        for source, turn in zip(sources, rows, strict=True):
            tasks.setdefault(source.task, []).append(turn)
        rows = [_Turn(1.0, lambda group=group: _next(group)) for group in tasks.values()]
    while True:
        yield _next(rows)


def _next(turns: list[_Turn]) -> Draw:
    # The one furthest behind its share; the first of them where several are.
    turn = min(turns, key=lambda one: (one.count + 0.5) / one.weight)
    turn.count += 1
    return turn.draw()


def _rows(source: Rows, index: int, seed: int) -> Callable[[], Draw]:
    def endless() -> Iterator[Draw]:
        epoch = 0
        while True:
            for row in epoch_order(seed, index, epoch, len(source.lengths), source.shuffle):
                yield Draw(index, epoch, row, source.lengths[row])
            epoch += 1

    return endless().__next__


def greedy(samples: list[Draw], pack_tokens: int) -> list[list[Draw]]:
    """The samples sorted by length, longest first, cut into packs of at most `pack_tokens`.

    Neighbours in length share a pack, so packs are length buckets; samples of one length keep their order.
    """
    packs: list[list[Draw]] = []
    room = 0
    for sample in sorted(samples, key=lambda one: -one.length):
        if sample.length > room:
            packs.append([])
            room = pack_tokens
        packs[-1].append(sample)
        room -= sample.length
    return packs


class Plan:
    """The packs of every step: exactly `packs` of at most `pack_tokens` each, no sample lost or used twice.

    A step takes the longest run of the next draws that fits. Steps are planned from 0 on (a large one takes
    milliseconds), so that they are the same in every process and after a resume.
    """

    def __init__(self, stream: Iterator[Draw], packs: int, pack_tokens: int) -> None:
        self._stream, self._packs, self._pack_tokens = stream, packs, pack_tokens
        self._waiting: deque[Draw] = deque()
        self._steps: list[list[list[Draw]]] = []

    def step(self, step: int) -> list[list[Draw]]:
        """The packs of one step, longest samples first."""
        while len(self._steps) <= step:
            self._steps.append(self._plan())
        return self._steps[step]

    def _plan(self) -> list[list[Draw]]:
        taken: list[Draw] = []
        tokens = 0
        while tokens <= self._packs * self._pack_tokens:
            taken.append(self._waiting.popleft() if self._waiting else next(self._stream))
            tokens += taken[-1].length
        packs = greedy(taken, self._pack_tokens)
        # One sample less is at most one pack less, as they are sorted: this ends at exactly `packs`.
        while len(packs) > self._packs:
            self._waiting.appendleft(taken.pop())
            packs = greedy(taken, self._pack_tokens)
        return packs
