"""Routers: from the pooled start and end of a prompt to the logits of sparse and full attention, one per layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import nn

from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.queries import queries_before_rope, query_dim

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call
    from attnpatch.patching.saved import Saved
    from attnpatch.patching.sites import Site

SPARSE, FULL = 0, 1  # columns of the logits
Spans = list[tuple[int, int]]


class Shape(NamedTuple):
    """What routers read and how wide they are.

    reads: "query" (query states before RoPE, mean over heads) or "hidden" (the layer's input). inputs: width of that.
    width: w of the layers, the head dimension. pool: tokens at the start and at the end of the prompt.
    """

    reads: Literal["query", "hidden"]
    inputs: int
    width: int
    pool: int = 100


class Router(nn.Module):
    """Context encoder and head of arXiv 2604.07394: inputs -> 8w -> 2w, then 2w -> 4w -> w -> 2.

    592,002 parameters at inputs = w = 128. Weights start as N(0, 0.02) and biases as 0: even odds for any prompt.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, 8 * width), nn.SiLU(), nn.Linear(8 * width, 2 * width))
        self.head = nn.Sequential(
            nn.Linear(2 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits `[B, 2]` (sparse, full) of pooled states `[B, inputs]`, in fp32 also under autocast."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(self.encoder(pooled.float()))


class Routers(nn.Module):
    """One router per layer, and what they read."""

    def __init__(self, shape: Shape, layers: Iterable[int]) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleDict({str(layer): Router(shape.inputs, shape.width) for layer in layers})

    @torch.no_grad()
    def start(self, seed: int, spread: float | None = 0.02) -> Routers:
        """Draw initial weights N(0, spread); None takes 2 / sqrt(inputs) of each layer, which keeps differences.

        With 0.02 a router of small width passes nothing on: all prompts look alike to it, and it hardly learns.
        """
        generator = torch.Generator().manual_seed(seed)
        for one in self.modules():
            if isinstance(one, nn.Linear):
                own = 2.0 * one.in_features**-0.5 if spread is None else spread
                one.weight.normal_(0, own, generator=generator)
                one.bias.zero_()
        return self

    def logits(self, call: Call, prompts: Spans) -> torch.Tensor:
        """Logits `[B, 2]` for the prompts of a call, given as real tokens (start, stop) of each row."""
        router = self.layers[str(call.layer)]
        if next(router.parameters()).device != call.hidden.device:
            router.to(call.hidden.device)
        return router(self.pooled(call, prompts))

    def pooled(self, call: Call, prompts: Spans) -> torch.Tensor:
        """What the routers read, `[B, inputs]`: the mean over each prompt's first and last `pool` tokens."""
        columns = [boundary(start - call.offset, stop - call.offset, self.shape.pool) for start, stop in prompts]
        if len({len(row) for row in columns}) == 1 and columns[0]:
            return self._mean(call, call.hidden[torch.arange(len(columns))[:, None], torch.tensor(columns)])
        rows = [
            self._mean(call, call.hidden[row : row + 1, own]) if own else call.hidden.new_zeros(1, self.shape.inputs)
            for row, own in enumerate(columns)
        ]
        return torch.cat(rows)

    def _mean(self, call: Call, hidden: torch.Tensor) -> torch.Tensor:
        if self.shape.reads == "hidden":
            return hidden.float().mean(1)
        return queries_before_rope(call.module, hidden, self.shape.inputs).float().mean((1, 2))


def saved_routers(saved: Saved) -> Routers:
    """The routers of a saved method. Raises AttnPatchError where what was saved does not describe any."""
    try:
        routers = Routers(Shape(**saved.details["router"]), [int(layer) for layer in saved.details["layers"]])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AttnPatchError(
            f"the saved method in {saved.location!r} is damaged: its routers are not described ({error!r}). Save or "
            "download it again."
        ) from error
    saved.fill(routers)
    return routers.eval()


def boundary(start: int, stop: int, pool: int) -> list[int]:
    """The first and the last `pool` of the tokens start..stop-1; they overlap in short prompts."""
    size = min(pool, stop - start)
    return [*range(start, start + size), *range(stop - size, stop)]


def is_full(logits: torch.Tensor) -> list[bool]:
    """The hard decision per row of logits `[B, 2]`; a tie is sparse."""
    return (logits[:, FULL] > logits[:, SPARSE]).tolist()


def shape_for(model: nn.Module, sites: list[Site], reads: str, pool: int) -> Shape:
    """The routers' shape for these sites; reads "auto" takes query states where every layer has them.

    Raises ValueError where query states are asked for and a layer does not have them.
    """
    dims = [query_dim(model.get_submodule(site.name), site) for site in sites]
    known = len(set(dims)) == 1 and dims[0] is not None
    if reads == "query" and not known:
        lacking = next((site.name for site, dim in zip(sites, dims, strict=True) if dim is None), sites[0].name)
        raise ValueError(
            f"{lacking} has no query projection of its own to read before RoPE; use features='hidden' (or 'auto')"
        )
    if known and reads != "hidden":
        return Shape("query", dims[0], dims[0], pool)
    hidden = model.config.hidden_size
    return Shape("hidden", hidden, dims[0] if known else max(1, hidden // (sites[0].heads or 1)), pool)
