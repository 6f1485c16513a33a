"""The attention of the rows that write an answer, read from the kernels while the model generates: nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from attnpatch.patching.apply import apply
from attnpatch.patching.edits import Edit, RowsAt
from attnpatch.patching.errors import UnsupportedModelError
from attnpatch.patching.method import Method


class Capture(Method):
    """Keeps the weights of the last row of every call, after all edits of methods that were applied before it.

    rows: for each layer, one `[H, image tokens]` fp32 per generated token, heads as queries have them. For a batch of
    one prompt.
    """

    name = "capture"
    needs_images = True

    def __init__(self, layers: Iterable[int]) -> None:
        super().__init__()
        self.layers = frozenset(layers)
        self.rows: dict[int, list[torch.Tensor]] = {layer: [] for layer in sorted(self.layers)}

    def check(self, site):
        if site.layer not in self.layers:
            return "its attention was not asked for"
        if site.softcap:
            return "the layer caps its attention scores (softcap), which rows that are computed anew do not"
        return None

    def prepare(self, sites, model):
        missing = sorted(self.layers - {site.layer for site in sites})
        if missing:
            raise UnsupportedModelError(
                f"the attention of layer {missing[0]} of {type(model).__name__} cannot be read: it has no such layer, "
                "or one of a kind that `attnpatch inspect` lists as skipped."
            )

    def attend(self, call, inner):
        images = call.images
        if images is not None and call.forward.aside is None:
            rows = self.rows[call.layer]

            def keep(weights: torch.Tensor, at: RowsAt) -> tuple[torch.Tensor, torch.Tensor]:
                columns = images.mask[0].nonzero().flatten() - at.key_first
                found = weights[0, :, -1].index_select(-1, columns.clamp(min=0))
                rows.append(found.masked_fill(columns < 0, 0))  # a window has moved past them
                return weights, torch.zeros(weights.shape[:3], dtype=torch.bool, device=weights.device)

            call.edit(Edit(keep, first=call.query.shape[2] - 1))
        return inner(call)

    @property
    def seen(self) -> torch.Tensor:
        """`[layers, steps, H, image tokens]`, on the CPU."""
        return torch.stack([torch.stack(rows).cpu() for rows in self.rows.values()])


def captured(
    model: torch.nn.Module, layers: Iterable[int], generate: Callable[[], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `generate()` returns, and the attention of its steps `[layers, steps, H, image tokens]`.

    Raises UnsupportedModelError where a layer cannot be read.
    """
    capture = Capture(layers)
    with apply(model, capture):
        made = generate()
    return made, capture.seen
