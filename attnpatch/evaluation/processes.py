"""Several processes that run one evaluation together, as `accelerate launch`, `torchrun` and `mpirun` start them.

Objects go over gloo, on GPUs too: they are small, and gloo's connections break at once when a process is gone.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from attnpatch.evaluation.errors import LostProcessError
from attnpatch.evaluation.launched import launched

Built = TypeVar("Built")
STARTED = timedelta(minutes=5)  # all processes have to be there by then
# A process that is gone is noticed at once; this is for one that hangs. It has to be longer than any cell takes.
PATIENCE = timedelta(hours=12)
KEPT = "Finished cells are kept, the same command goes on from them."


@dataclass(frozen=True)
class Processes:
    """All processes of this run, as one of them sees them; by default the only one.

    Every method has to be called by all processes, in the same order.
    """

    rank: int = 0
    count: int = 1
    gloo: Any = None

    @property
    def main(self) -> bool:
        """True in the one process that writes and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.count == 1

    def everyones(self, mine: Any) -> list[Any]:
        """What every process gave, in the order of their ranks. Raises LostProcessError."""
        if self.alone:
            return [mine]
        found = [None] * self.count
        self._exchange(torch.distributed.all_gather_object, found, mine)
        return found

    def mains(self, value: Any) -> Any:
        """What the main process gave. Raises LostProcessError."""
        if self.alone:
            return value
        found = [value]
        self._exchange(torch.distributed.broadcast_object_list, found)
        return found[0]

    def wait(self) -> None:
        """Until all have come here. Raises LostProcessError."""
        self.everyones(None)

    def each(self, build: Callable[[], Built]) -> Built:
        """`build()` in every process. Where it raises, the first process does so and the others end silently."""
        built, problem = None, None
        try:
            built = build()
        except Exception as error:
            if self.alone:
                raise
            problem = error
        failed = [rank for rank, fine in enumerate(self.everyones(problem is None)) if not fine]
        if failed and self.rank == failed[0]:
            raise problem
        if failed:
            raise SystemExit(1)
        return built

    def main_first(self, build: Callable[[], Built]) -> Built:
        """`build()` in the main process, then in the others, which find in caches and on disk what it left there."""
        if self.alone:
            return build()
        first = self.each(build if self.main else _nothing)
        second = self.each(_nothing if self.main else build)
        return first if self.main else second

    def _exchange(self, exchange: Callable, *objects: Any) -> None:
        try:
            exchange(*objects, group=self.gloo)
        except RuntimeError as error:
            raise LostProcessError(
                f"process {self.rank} of {self.count} cannot reach the others: one of them has ended or hangs. {KEPT} "
                f"({' '.join(str(error).split())[:120]})"
            ) from error


ALONE = Processes()


def _nothing() -> None:
    return None


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that a launcher started, this one among them; `ALONE` without a launcher.

    Raises:
        UsageError: what the launcher says is not complete.
        LostProcessError: the others cannot be reached, or the launcher ends this process because one has failed.
    """
    own = launched()
    if own is None:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(own.local_rank % torch.cuda.device_count())
    try:
        torch.distributed.init_process_group("gloo", rank=own.rank, world_size=own.count, timeout=STARTED)
        gloo = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LostProcessError(f"the processes of this run do not reach each other: {reason}") from error
    group = Processes(own.rank, own.count, gloo)
    ended: list[int] = []

    def end(number: int, frame: Any) -> None:
        ended.append(number)
        raise KeyboardInterrupt  # an Exception would become the error of the cell in hand

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield group
    except KeyboardInterrupt:
        if not group.main:
            raise SystemExit(130) from None
        if ended:
            raise LostProcessError(
                f"ended by the launcher, as it does when another process has failed. {KEPT}"
            ) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    # Not after an error: that would wait for processes which may be gone.
    torch.distributed.destroy_process_group()
