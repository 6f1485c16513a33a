"""The global random states that lm-eval's tasks draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seeds(data_seed: int) -> dict[str, int]:
    """lm-eval's four seeds; data seed 0 gives the defaults of its own command line."""
    return {
        "random_seed": data_seed,
        "numpy_random_seed": 1234 + data_seed,
        "torch_random_seed": 1234 + data_seed,
        "fewshot_random_seed": 1234 + data_seed,
    }


@contextmanager
def seeded(data_seed: int) -> Iterator[None]:
    """These seeds inside; the caller's random states afterwards."""
    drawn = seeds(data_seed)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(drawn["random_seed"])
        np.random.seed(drawn["numpy_random_seed"])
        torch.manual_seed(drawn["torch_random_seed"])
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
