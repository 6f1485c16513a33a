"""Where generation changes from prefill to decode: a logits processor that only looks at the time."""

from __future__ import annotations

import time

import torch

from attnpatch.evaluation.speed import Meter, synchronise


class Clock:
    """Called by `generate` after every forward; the first call marks the end of the prompt's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.began = self.first = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.first:
            self.first = self._now()
        return scores

    def start(self) -> None:
        self.began = self._now()

    def stop(self, prefill: Meter, prompt: int, decode: Meter, generated: int) -> None:
        """Add `prompt` tokens and `generated` tokens with the time each took."""
        end = self._now()
        prefill.batches.append((prompt, self.first - self.began))
        if generated:
            decode.batches.append((generated, end - self.first))

    def _now(self) -> float:
        synchronise(self.device)
        return time.perf_counter()
