"""What is known of a prompt's tokens, as columns beside the keys of every later step."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_ROOM = 128  # columns by which they grow


class Columns:
    """Values `[..., T]` of the T tokens of a prompt; zero for what comes behind it.

    They are kept wider than the prompt, so that a step of decoding takes a view of them.
    """

    __slots__ = ("_wide", "length")

    def __init__(self, values: torch.Tensor) -> None:
        self.length = values.shape[-1]
        self._wide = values

    @property
    def values(self) -> torch.Tensor:
        """Those of the prompt, `[..., T]`."""
        return self._wide[..., : self.length]

    def at(self, first: int, count: int) -> torch.Tensor:
        """Values of the keys first..first+count-1, `[..., count]`."""
        missing = first + count - self._wide.shape[-1]
        if missing > 0:
            with torch.inference_mode(False):  # a later call may want gradients
                self._wide = F.pad(self._wide, (0, missing + _ROOM))
        return self._wide.narrow(-1, first, count)
