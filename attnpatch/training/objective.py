"""The loss: next tokens, and sparsity targets held by multipliers that are trained against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from attnpatch.training.samples import Pack

CHUNK = 2048  # positions whose logits exist at the same time


class Multipliers(nn.Module):
    """Per task k: lam1_k |D| + lam2_k D^2 for a sample whose share of sparse layers misses its target by D.

    The routers minimise it and the multipliers maximise it, so a missed target weighs more with every step.
    Source: arXiv 2604.07394; |D| instead of D as in the released code.
    """

    def __init__(self, targets: dict[str, float], low: float, high: float, seed: int) -> None:
        super().__init__()
        self.tasks = list(targets)
        self.register_buffer("targets", torch.tensor([targets[task] for task in self.tasks]), persistent=False)
        drawn = torch.rand(2, len(self.tasks), generator=torch.Generator().manual_seed(seed))
        self.linear = nn.Parameter(low + (high - low) * drawn[0])
        self.square = nn.Parameter(low + (high - low) * drawn[1])

    def forward(self, omegas: Sequence[torch.Tensor], tasks: Sequence[str]) -> torch.Tensor:
        """Mean over the tasks of the mean over their samples; omegas: share of sparse layers of each sample."""
        by_task: dict[int, list[torch.Tensor]] = {}
        for omega, task in zip(omegas, tasks, strict=True):
            by_task.setdefault(self.tasks.index(task), []).append(omega)
        terms = []
        for task, own in by_task.items():
            missed = torch.stack(own) - self.targets[task]
            terms.append((self.linear[task] * missed.abs() + self.square[task] * missed.square()).mean())
        return torch.stack(terms).mean()

    def values(self) -> dict[str, list[float]]:
        """[lam1, lam2] per task."""
        both = torch.stack([self.linear, self.square], 1).tolist()
        return {task: [round(value, 5) for value in pair] for task, pair in zip(self.tasks, both, strict=True)}


def labels_of(pack: Pack) -> tuple[list[int], list[float]]:
    """Positions in the pack's row that are trained as labels, and their weights; never a sample's first token."""
    places, weights, start = [], [], 0
    for sample in pack.samples:
        for index in range(1, len(sample)):
            if sample.weights[index] > 0:
                places.append(start + index)
                weights.append(sample.weights[index])
        start += len(sample)
    return places, weights


def weighted_nll(
    hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor, pack: Pack
) -> torch.Tensor:
    """Sum over the trained tokens of weight * negative log-likelihood.

    hidden: `[1, N, hidden]`, what `head` turns into logits; tokens: `[1, N]`. Logits of a large vocabulary never exist
    for the whole row: they are computed in chunks, and again in the backward pass.
    """
    places, weights = labels_of(pack)
    at = torch.tensor(places, dtype=torch.long, device=hidden.device)
    weight = torch.tensor(weights, device=hidden.device)
    rows, labels = hidden[0, at - 1], tokens[0, at]

    def part(rows: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (functional.cross_entropy(head(rows).float(), labels, reduction="none") * weight).sum()

    chunks = zip(rows.split(CHUNK), labels.split(CHUNK), weight.split(CHUNK), strict=True)
    return torch.stack([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks]).sum()
