"""What a launcher told this process through the environment: its rank, and how many processes there are."""

from __future__ import annotations

import os
from dataclasses import dataclass

from attnpatch.evaluation.errors import UsageError

# Rank, number of processes, rank on this machine. In this order, and each launcher's own numbers together: torchrun
# may run under mpirun, whose numbers are then those of the machines.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, accelerate launch
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # mpirun of Intel MPI and MPICH
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # mpirun of Open MPI
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),  # mpirun of MVAPICH2
)
MEETING = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launched:
    """This process among `count`; local_rank: among those of its machine."""

    rank: int
    count: int
    local_rank: int


def launched() -> Launched | None:
    """This process as its launcher numbers it; None without a launcher, or where it started one process only.

    Raises:
        UsageError: a number that is none, or several processes that were not told where they meet.
    """
    for names in LAUNCHERS:
        if all(os.environ.get(name) for name in names[:2]):
            rank, count, local = map(_number, names)
            return _checked(Launched(rank, count, local), names) if count > 1 else None
    return None


def _number(name: str) -> int:
    text = os.environ.get(name) or "0"
    if not text.isdigit():
        raise UsageError(f"{name}={text!r} is not a number; unset it, or start with torchrun or accelerate launch.")
    return int(text)


def _checked(found: Launched, names: tuple[str, str, str]) -> Launched:
    if found.rank >= found.count:
        raise UsageError(f"{names[0]}={found.rank} has to be below {names[1]}={found.count}.")
    missing = [name for name in MEETING if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"{names[1]} says that {found.count} processes run, but {' and '.join(missing)}, where they meet, "
            "are not set in each: give the name of the machine of rank 0 and a free port there (mpirun of Open MPI "
            f"hands them on with -x), or unset {names[1]} to run alone."
        )
    return found
