"""The ladder of lengths, climbed by accuracy, and the choices of one training step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from attnpatch.sandbox.text.mixture import FIRST, FULL, LATE
from attnpatch.sandbox.text.model import RETRIEVAL

LADDER = (64, 128, 256, 512, 1024, 2048)
FORMED = 0.6  # needle accuracy at which induction is taken to have formed
KEEP = 0.9  # decay of the running accuracies


@dataclass(frozen=True)
class Recipe:
    """The training recipe; its defaults made the packaged weights."""

    steps: int = 900
    tokens_per_step: int = 2048
    muon_lr: float = 5e-3
    adamw_lr: float = 3e-3
    warmup: int = 50
    decay: float = 0.3  # share of the steps, at the end, over which the learning rates fall linearly to 2 %
    ema: float = 0.98  # the exported weights are a running average
    filler_loss: float = 0.3
    promote: float = 0.9  # running needle accuracy that earns the next length
    patience: int = 20  # least number of steps at a length
    shorter: float = 0.25  # share of the steps at a shorter length
    narrow: float = 0.66  # share of the steps that run one retrieval layer with a window, so that no one is alone
    narrow_window: int = 32  # its size, at most an eighth of the row
    late: float = 0.45  # share of the steps after which the mixture changes
    bf16: bool = True

    def rate(self, step: int) -> float:
        """The factor on the learning rates at `step`."""
        start = self.steps * (1 - self.decay)
        fall = 1.0 if step < start else max(0.02, (self.steps - step) / max(1.0, self.steps - start))
        return min(1.0, (step + 1) / self.warmup) * fall


@dataclass
class Curriculum:
    """Where the run stands on the ladder.

    Accuracies are running means, per kind of row, at the current length.
    """

    rung: int = 0
    at_rung: int = 0
    formed: bool = False
    accuracy: dict[str, float] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return LADDER[self.rung]

    def kinds(self, recipe: Recipe, step: int) -> dict[str, float]:
        """The mixture of this step."""
        if not self.formed:
            return FIRST
        return FULL if step < recipe.late * recipe.steps else LATE

    def choose(self, recipe: Recipe, seed: int, step: int) -> tuple[int, tuple[int, ...]]:
        """The row length of this step and the layers that get a window (none in the other steps)."""
        rng = Random(f"choice/{seed}/{step}")
        length = self.length
        if self.rung and rng.random() < recipe.shorter:
            length = LADDER[rng.randrange(self.rung)]
        if rng.random() >= recipe.narrow:
            return length, ()
        return length, (rng.choice(RETRIEVAL),)

    def record(self, recipe: Recipe, length: int, accuracy: dict[str, float], clean: bool) -> bool:
        """Take in the accuracies of one step; True if the run climbed to the next length."""
        if length != self.length or not clean:
            return False
        self.at_rung += 1
        for kind, value in accuracy.items():
            self.accuracy[kind] = KEEP * self.accuracy.get(kind, value) + (1 - KEEP) * value
        needles = self.accuracy.get("needles", 0.0)
        self.formed = self.formed or needles >= FORMED
        if needles < recipe.promote or self.at_rung < recipe.patience or self.rung + 1 == len(LADDER):
            return False
        self.rung, self.at_rung, self.accuracy = self.rung + 1, 0, {}
        return True

    def state(self) -> dict[str, Any]:
        return asdict(self)
