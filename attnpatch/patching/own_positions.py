"""What models remember of a sequence beside its cache, kept apart while another sequence runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_REMEMBERED = "rope_deltas"  # Qwen-VL, GLM-V: how far positions of generated tokens lie behind their index


class OwnPositions:
    """The positions that `model` remembers from one forward to the next, for a sequence run beside another one."""

    def __init__(self, model: nn.Module) -> None:
        self._holders = [module for module in model.modules() if _REMEMBERED in vars(module)]
        self._mine: list | None = None

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The model remembers this sequence inside, as it was left the last time, and the other one outside."""
        theirs = self._read()
        if self._mine is not None:
            self._write(self._mine)
        try:
            yield
        finally:
            self._mine = self._read()
            self._write(theirs)

    def _read(self) -> list:
        return [getattr(module, _REMEMBERED) for module in self._holders]

    def _write(self, values: list) -> None:
        for module, value in zip(self._holders, values, strict=True):
            setattr(module, _REMEMBERED, value)
