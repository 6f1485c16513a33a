"""Saliency of attention weights: the weights of a few layers kept with their gradient, and what a token's loss says.

Source: "Hallucination Begins Where Saliency Drops", ICLR 2026, arXiv 2601.20279.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F

from attnpatch.patching.edits import Edit, RowsAt
from attnpatch.patching.method import Method

Norm = Literal["row", "matrix"]
SMALLEST = 1e-9  # norms below it are taken as it


class SaliencyRecorder(Method):
    """Writes out the attention weights of a forward with their gradient; it changes none of them.

    It stands outermost, so that it sees weights as all other methods have left them.
    """

    name = "saliency_recorder"
    summary = "keeps attention weights with their gradient, for sgrs"

    def __init__(self) -> None:
        super().__init__()
        # By layer: pieces [1, H, rows, K] in the order of their rows, and where their first row and key stand.
        self.maps: dict[int, list[tuple[torch.Tensor, RowsAt]]] = {}
        self._on = False

    def check(self, site):
        if site.softcap:
            return "the layer caps its attention scores (softcap), which rows that are computed anew do not"
        return None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Forwards inside leave their weights in `maps`, and build a graph from the lowest recorded layer on."""
        self.forget()
        self._on = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._on = False

    def forget(self) -> None:
        """Let the graph of the last forward go."""
        self.maps = {}

    def attend(self, call, inner):
        if self._on:
            call.edit(Edit(lambda weights, at: (self._kept(call.layer, weights, at), None), everywhere=True))
        return inner(call)

    def _kept(self, layer: int, weights: torch.Tensor, at: RowsAt) -> torch.Tensor:
        if not weights.requires_grad:
            # The lowest layer: nothing below it is asked for a gradient, all that follows is recorded. `recording`
            # puts the mode back when the forward is over.
            torch.set_grad_enabled(True)
            weights = weights.detach().requires_grad_()
        self.maps.setdefault(layer, []).append((weights, at))
        return weights

    def score(self, token: int, logits: torch.Tensor, first: int, last: int, norm: Norm) -> float:
        """Mean saliency of the keys first..last-1 for `token` under `logits` `[1, V]`, over the recorded layers.

        Per layer: S = sum over heads of |A * dL/dA|, L the cross-entropy of `token`, and its last row divided by the
        norm of that row, or of all of S (`matrix`, for which the whole sequence must have been recorded). Keys that a
        sliding window has left behind count as zero.
        """
        pieces = [weights for found in self.maps.values() for weights, _ in found]
        with torch.enable_grad():
            loss = F.cross_entropy(logits, torch.tensor([token], device=logits.device))
        gradients = iter(torch.autograd.grad(loss, pieces, retain_graph=True))
        total = 0.0
        for found in self.maps.values():
            salient = [_salience(weights, next(gradients), at) for weights, at in found]
            row, behind = salient[-1][-1], found[-1][1].key_first
            measured = [row] if norm == "row" else salient
            length = torch.stack([part.norm() for part in measured]).norm().clamp(min=SMALLEST)
            total += float(row[max(first - behind, 0) : max(last - behind, 0)].sum() / length)
        return total / (len(self.maps) * (last - first))


def _salience(weights: torch.Tensor, gradient: torch.Tensor, at: RowsAt) -> torch.Tensor:
    """Sum over heads of |A * dL/dA| `[rows, K]`, without keys behind the query, which images see in some models."""
    return (weights.detach() * gradient).abs().sum(1)[0].tril(at.first - at.key_first)
