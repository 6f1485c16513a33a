"""Gates during training: noisy, straight-through decisions, drawn from the step and the sample alone.

Source: "Flux Attention", arXiv 2604.07394, and its released code (temperature, noise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from attnpatch.methods.flux.router import FULL, SPARSE
from attnpatch.methods.stochastic import mix
from attnpatch.training.settings import RouterSettings

TINY = 1e-8


def temperature(settings: RouterSettings, step: int, steps: int) -> float:
    """tau of a step: a half cosine from start to end over the first `temperature_share` of the steps, then end."""
    falling = math.ceil(settings.temperature_share * steps)
    if step >= falling:
        return settings.temperature_end
    height = settings.temperature_start - settings.temperature_end
    return settings.temperature_end + height * (1 + math.cos(math.pi * step / falling)) / 2


@dataclass
class Gates:
    """The gate of every (sample, layer) of one pack; call it as `Flux.blended` asks.

    first: number of the pack's first sample within the step, so that noise does not depend on who computes the pack.
    hard: straight-through argmax forward, the gradient of the softmax backward; else the softmax itself.
    """

    seed: int
    step: int
    first: int
    tau: float
    hard: bool = True
    open: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)  # (sample, layer) -> share of full
    logits: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)  # (sample, layer) -> [2]

    def __call__(self, call, logits: torch.Tensor) -> torch.Tensor:
        """The share of full attention `[1]` for the logits `[1, 2]` of one sample at one layer."""
        place = (call.forward.sample, call.layer)
        soft = torch.softmax((logits + self._noise(*place).to(logits.device)) / self.tau, -1)
        share = soft[:, FULL]
        if self.hard:
            decided = (soft[:, FULL] > soft[:, SPARSE]).to(share.dtype)
            share = decided + (share - share.detach())  # in this order the sum is exactly 0 or 1
        # Checkpointed layers come here twice; the first time is the one the loss is made of.
        self.open.setdefault(place, share[0])
        self.logits.setdefault(place, logits[0])
        return share

    def _noise(self, sample: int, layer: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(mix(self.seed, self.step, self.first + sample, layer))
        uniform = torch.rand(1, 2, generator=generator)
        return -torch.log(-torch.log(uniform + TINY) + TINY)

    def omegas(self) -> list[torch.Tensor]:
        """Share of sparse layers per sample, with the gradient of its gates."""
        return [1 - torch.stack(shares).mean() for shares in self._by_sample(self.open)]

    def decided(self) -> list[float]:
        """Share of sparse layers per sample as inference would decide: no noise."""
        return [
            float((pair[:, FULL] <= pair[:, SPARSE]).float().mean())
            for pair in (torch.stack(rows).detach() for rows in self._by_sample(self.logits))
        ]

    def squared_logits(self) -> torch.Tensor:
        """Mean squared logit."""
        return torch.stack(list(self.logits.values())).square().mean()

    def _by_sample(self, kept: dict[tuple[int, int], torch.Tensor]) -> list[list[torch.Tensor]]:
        samples: dict[int, list[torch.Tensor]] = {}
        for (sample, _), value in kept.items():
            samples.setdefault(sample, []).append(value)
        return [samples[sample] for sample in sorted(samples)]
