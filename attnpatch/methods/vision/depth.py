"""The option `layers`, and layers that a paper names for its own model at the same share of depth elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from attnpatch.patching.layers import select_layers

if TYPE_CHECKING:
    from attnpatch.patching.sites import Site

PAPER_DEPTH = 32  # layers of LLaVA-1.5-7B, for which the papers give theirs


def _plain(layers: Any) -> Any:
    """`layers` in a form that JSON can hold: text, or indices."""
    if isinstance(layers, bool) or callable(layers):
        raise ValueError("name the layers, as indices or as text such as '5:18'; a function cannot be saved")
    if isinstance(layers, slice):
        edges = (layers.start, layers.stop) if layers.step is None else (layers.start, layers.stop, layers.step)
        return ":".join("" if edge is None else str(edge) for edge in edges)
    if isinstance(layers, int):
        return (layers,)
    return tuple(layers) if isinstance(layers, (list, range)) else layers


# What attnpatch.apply(layers=...) takes, but for functions: indices, or text such as "5:18" (the end excluded).
Layers = Annotated[str | tuple[int, ...], BeforeValidator(_plain)]


def at_depth(paper: range, depth: int) -> range:
    """The layers `paper` of a model with 32 as layers of one with `depth`: the same share of depth, at least one.

    >>> at_depth(range(5, 18), 40)
    range(6, 22)
    """
    start, stop = (round(edge * depth / PAPER_DEPTH) for edge in (paper.start, paper.stop))
    start = min(start, depth - 1)
    return range(start, max(stop, start + 1))


def outside(site: Site, layers: str | tuple[int, ...] | None, paper: range) -> str | None:
    """Why `site` is none of the `layers`, None if it is one; they are `paper` at its share of depth if None.

    Raises AttnPatchError for layers that the model does not have.
    """
    chosen = list(at_depth(paper, site.layers)) if layers is None else layers
    if select_layers(chosen, site.layers)(site.layer):
        return None
    named = f"{chosen[0]}..{chosen[-1]}" if layers is None else layers
    return f"not one of the layers that are changed ({named})"
