"""Dropping keys that nobody can see any more: which caches allow it, and when it happens.

A layer is trimmed in `Call.evict`, right after its attention, so memory falls layer by layer. Where the model makes
the cache itself, inside a forward that was given none, it is trimmed at the end of that forward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from attnpatch.patching.errors import UnsupportedCallError, UnsupportedModelError
from attnpatch.patching.sink_cache import FIX, SinkWindowLayer, Spans

if TYPE_CHECKING:
    from attnpatch.patching.budget import SiteStats
    from attnpatch.patching.forward import Forward


def check_config(config: object) -> None:
    """Raise UnsupportedModelError where layers read the cache of other layers, which then must not drop anything."""
    if "reuse" in (getattr(config, "kv_sharing_modes", None) or ()):
        raise UnsupportedModelError(
            "layers of this model read the keys of other layers, so no layer may drop any: " + FIX + "."
        )


def open_cache(cache: object, layers: Iterable[int]) -> dict[int, SinkWindowLayer]:
    """Before a forward: announce it to the layers among `layers` that have dropped tokens, and return them.

    Raises UnsupportedCallError for a cache that tokens cannot be dropped from; nothing has been changed then.
    """
    if type(cache) is not DynamicCache or cache.offloading:
        kind = f"an offloading {type(cache).__name__}" if getattr(cache, "offloading", False) else type(cache).__name__
        raise UnsupportedCallError(
            f"evict=True drops tokens from a transformers DynamicCache, got {kind}. Run with "
            f"past_key_values=DynamicCache(config=model.config) or without cache_implementation=, or {FIX}."
        )
    present = {index: cache.layers[index] for index in layers if index < len(cache.layers)}
    for index, layer in present.items():
        if type(layer) not in (DynamicLayer, SinkWindowLayer, DynamicSlidingWindowLayer):
            raise UnsupportedCallError(
                f"evict=True cannot drop tokens from layer {index} of the cache, a {type(layer).__name__}; "
                f"{FIX}, or leave the layer out with layers=."
            )
    held = {i: layer for i, layer in present.items() if isinstance(layer, SinkWindowLayer) and layer.layout.dropped}
    for layer in held.values():
        layer.armed = True
    return held


def disarm(caches: Iterable[object]) -> None:
    """Take back every announcement: the methods at work have changed."""
    for cache in caches:
        for layer in getattr(cache, "layers", ()):
            if isinstance(layer, SinkWindowLayer):
                layer.armed = False


@dataclass(frozen=True)
class Request:
    """What `Call.evict` asks of one layer: keep `first` tokens of each row and the `last` a query sees."""

    layer: int
    first: int
    last: int
    slack: int
    spans: Spans | None
    stats: SiteStats | None

    def run(self, cache: DynamicCache) -> None:
        """Trim the layer, putting a `SinkWindowLayer` in the place of a DynamicLayer; count the bytes."""
        layer, saved = cache.layers[self.layer], 0
        if type(layer) is DynamicLayer and layer.get_seq_length() >= self.first + self.last + self.slack:
            layer = cache.layers[self.layer] = SinkWindowLayer.over(layer, self.first, self.last)
        if isinstance(layer, SinkWindowLayer):
            if layer.layout.dropped:  # what is gone is gone
                layer.last = min(layer.last, self.last)
            else:
                layer.first, layer.last = self.first, self.last
            layer.trim(self.slack, self.spans)
            saved = layer.bytes_saved
        if self.stats is not None:
            self.stats.cache_bytes_saved = saved


def request(forward: Forward, wanted: Request) -> None:
    """Run `wanted` now, or at the end of the forward if the model makes the cache itself."""
    if forward.cache is None:
        forward.evictions.append(wanted)
    else:
        wanted.run(forward.cache)


def close(forward: Forward, cache: object | None) -> None:
    """After a forward: what is left to do, on the cache that the model made; lets go of all caches."""
    if cache is not None and forward.evictions:
        open_cache(cache, (wanted.layer for wanted in forward.evictions))
        for wanted in forward.evictions:
            wanted.run(cache)
    forward.cache, forward.held, forward.evictions = None, {}, []
