"""A cache layer that holds each row's first tokens and the newest ones, and nothing in between.

The stock attention cannot read it, so it only takes new keys in a forward that attnpatch has announced to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from attnpatch.kernels import Window
from attnpatch.patching.errors import UnsupportedCallError

# Drafted tokens that the host may take back (`crop`) after a forward of several tokens: what the tokens before them
# see is kept until the next forward.
DRAFT = 64
FIX = "use evict=False"
Spans = list[tuple[int, int]]  # absolute (start, stop) of each row's real tokens


@dataclass(frozen=True)
class Layout:
    """What the stored columns mean: `sinks` columns of first tokens, then all tokens from absolute index `tail` on.

    The first columns hold each row's first real tokens before `tail`, right-aligned. So a row's real tokens stay
    neighbours and in order, and a window with sinks over the stored columns sees what it saw over all of them.
    """

    sinks: int = 0
    tail: int = 0

    @property
    def dropped(self) -> int:
        """Columns that are no longer there."""
        return self.tail - self.sinks

    def held(self, start: int) -> int:
        """How many first tokens of a row stand in the sink columns."""
        return min(max(self.tail - start, 0), self.sinks)

    def start(self, start: int) -> int:
        """Stored column of a row's first real token."""
        return self.sinks - self.held(start) + max(start - self.tail, 0)

    def spans(self, spans: Spans | None) -> Spans | None:
        """`spans` as stored columns."""
        if spans is None:
            return None
        starts = [self.start(start) for start, _ in spans]
        return [(low, max(stop - self.dropped, low)) for low, (_, stop) in zip(starts, spans, strict=True)]

    def positions(self, spans: Spans, end: int) -> torch.Tensor:
        """Int64 `[B, K]`: the absolute index of the key in each stored column, -1 for sink columns without one."""
        rows = []
        for start, _ in spans:
            held = self.held(start)
            rows.append([-1] * (self.sinks - held) + [*range(start, start + held), *range(self.tail, end)])
        return torch.tensor(rows, dtype=torch.long)

    def widened(self, weights: torch.Tensor, spans: Spans, end: int) -> torch.Tensor:
        """Weights `[B, H, Q, end]` over all keys, from those over the stored columns `[B, H, Q, K]`."""
        columns = self.positions(spans, end).clamp(min=0).to(weights.device)[:, None, None, :]
        full = weights.new_zeros(*weights.shape[:3], end)
        return full.scatter_add(3, columns.expand_as(weights), weights)


class SinkWindowLayer(DynamicLayer):
    """The keys and values of every row's first `first` real tokens, and of the newest tokens.

    Counts as long as all tokens it has seen, so masks and positions of the model are what they would be.

    Attributes:
        layout: what the stored columns mean. cumulative_length: tokens seen.
        first, last: a query finds its row's first tokens, and the last ones with itself, up to these numbers.
        starts: int64 `[B]`, each row's first real token when last trimmed (-1: none yet); None without padding.
        armed: True from the moment a patched forward announced itself to its update.
    """

    is_croppable = False

    def __init__(self, first: int, last: int, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.last = first, last
        self.layout = Layout()
        self.cumulative_length = 0
        self.starts: torch.Tensor | None = None
        self.armed = False

    @classmethod
    def over(cls, layer: DynamicLayer, first: int, last: int) -> SinkWindowLayer:
        """A layer that goes on from `layer` and shares its tensors."""
        new = cls(first, last)
        new.dtype, new.device, new.is_initialized = layer.dtype, layer.device, True
        new.keys, new.values = layer.keys, layer.values
        new.cumulative_length = layer.get_seq_length()
        return new

    @property
    def bytes_saved(self) -> int:
        """What a DynamicLayer would hold more than this one does."""
        return (self.keys.nbytes + self.values.nbytes) // self.keys.shape[-2] * self.layout.dropped

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any):
        """Stored and new keys and values `[B, Hkv, K, D]`. Raises UnsupportedCallError outside a patched forward."""
        if self.layout.dropped and not self.armed:
            raise UnsupportedCallError(
                f"this cache has dropped {self.layout.dropped} of {self.cumulative_length} tokens (evict=True), and "
                "the method that did so is no longer at work here: the layer would silently attend to what is left. "
                f"Start with a new cache, keep the patch in and enabled while this one is in use, or {FIX}."
            )
        self.armed = False
        self.cumulative_length += key_states.shape[-2]
        return super().update(key_states, value_states)

    def trim(self, slack: int, spans: Spans | None) -> None:
        """Drop what no query from the end on can see, nor any of the `slack` before it."""
        end = self.cumulative_length
        # A row that is padding so far starts behind the end.
        starts = [0] if spans is None else [start if start < stop else end for start, stop in spans]
        tail = end - self.last + 1 - slack
        new = Layout(min(self.first, max(0, tail - min(starts))), tail)
        if new.dropped <= self.layout.dropped:
            return
        self.keys, self.values = (self._trimmed(x, new, starts) for x in (self.keys, self.values))
        self.layout, self.starts = new, None
        if spans is not None:
            known = [start if start < end else -1 for start in starts]
            self.starts = torch.tensor(known, device=self.keys.device)

    def _trimmed(self, x: torch.Tensor, new: Layout, starts: list[int]) -> torch.Tensor:
        old = self.layout
        if min(starts) == max(starts):
            low = old.start(starts[0])
            sinks = x[:, :, low : low + new.sinks]
        elif old.tail >= max(starts) + self.first:
            sinks = x[:, :, : self.first]  # every row has them all
        else:
            columns = torch.zeros(len(starts), new.sinks, dtype=torch.long)
            for row, start in enumerate(starts):
                low, held = old.start(start), new.held(start)
                columns[row, new.sinks - held :] = torch.arange(low, low + held)
            index = columns.to(x.device)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
            sinks = x.gather(2, index)
        # A copy: a view would keep all tokens in memory.
        return torch.cat([sinks, x[:, :, new.tail - old.dropped :]], dim=2)

    def require(self, rule: object, layer: int) -> None:
        """Raise UnsupportedCallError if `rule` may look at a dropped key."""
        within = isinstance(rule, Window) and rule.window <= self.last and rule.sink <= self.first
        if not within or rule.reach is not None:  # a distance to a sink is another one here
            raise UnsupportedCallError(
                f"layer {layer} holds the first {self.first} and the last {self.last} tokens in its cache "
                f"(evict=True), which {rule} may look beyond. Start with a new cache, or {FIX} in the method "
                "that dropped the others."
            )

    def require_starts(self, spans: Spans | None) -> None:
        """Raise UnsupportedCallError if the padding is another than when the layer was trimmed."""
        given = [start for start, _ in spans or ()]
        known = [] if self.starts is None else self.starts.tolist()
        given, known = given or [0] * len(known), known or [0] * len(given)
        if any(before not in (now, -1) for before, now in zip(known, given, strict=True)):
            raise UnsupportedCallError(
                f"attention_mask says that the rows' text starts at {given}, it was {known} when tokens were dropped "
                f"from the cache (evict=True). Pass the attention_mask of all tokens at every call, or {FIX}."
            )

    # What the host does to a cache

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the newest tokens. Raises UnsupportedCallError if what the ones before them see is gone."""
        if not self.layout.dropped or tokens_to_remove >= 0:
            super().crop(tokens_to_remove)
        else:
            end = self.cumulative_length + tokens_to_remove
            if end - self.last + 1 < self.layout.tail:
                raise UnsupportedCallError(
                    f"{-tokens_to_remove} tokens cannot be taken back: the cache has dropped what the tokens before "
                    f"them see (evict=True keeps it for up to {DRAFT} tokens of the newest forward). For generation "
                    f"that drafts more, or step by step, {FIX}."
                )
            self.keys, self.values = self.keys[:, :, :tokens_to_remove], self.values[:, :, :tokens_to_remove]
        self.cumulative_length = self.layout.dropped + (self.keys.shape[-2] if self.is_initialized else 0)

    def reset(self) -> None:
        super().reset()
        if self.is_initialized:  # transformers 5.17 sets them to zero and keeps their length
            self.keys, self.values = self.keys[:, :, :0], self.values[:, :, :0]
        self.layout, self.starts, self.armed = Layout(), None, False

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._pick(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.starts is not None:
            self.starts = self.starts.repeat_interleave(repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._pick(indices)

    def _pick(self, rows: torch.Tensor) -> None:
        if self.starts is not None:
            self.starts = self.starts[rows.to(self.starts.device)]
