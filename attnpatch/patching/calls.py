"""One attention call at one site: what a method sees, and the services it attends with."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch

from attnpatch.kernels import Causal, Window
from attnpatch.patching import eviction
from attnpatch.patching.budget import SiteStats, Tally
from attnpatch.patching.edits import Edit, stock_with_edits
from attnpatch.patching.errors import UnsupportedCallError
from attnpatch.patching.forward import Forward
from attnpatch.patching.masks import LazyMask, MaskSpec, Pattern, spans_of
from attnpatch.patching.parts import joined_queries, mask_of_part
from attnpatch.patching.sink_cache import DRAFT, FIX
from attnpatch.patching.sparse import attend_under

if TYPE_CHECKING:
    from attnpatch.patching.images import Images
    from attnpatch.patching.sink_cache import SinkWindowLayer
    from attnpatch.patching.sites import Site

Inner = Callable[["Call"], tuple[torch.Tensor, torch.Tensor | None]]


class Call:
    """One attention call at one site, after RoPE and the cache update.

    query `[B, H, Q, D]`, key `[B, Hkv, K, D]`, value `[B, Hkv, K, Dv]`, which methods may replace before calling
    `inner`; `offset` is the absolute index of query row 0, `key_offset` that of key column 0. mask: the host's own,
    a `LazyMask` where transformers makes it; None where a query sees every key up to its own.
    hidden: the attention module's input `[B, Q, hidden]`, for methods that set `needs_hidden`; residual: the decoder
    layer's input `[B, Q, hidden]`, before its norm, for methods that set `needs_residual`.
    """

    __slots__ = (
        "edits", "extra", "forward", "hidden", "host", "key", "mask", "module", "query", "residual", "scaling", "site",
        "stats", "value",
    )  # fmt: skip

    def __init__(
        self, site, forward, host, module, query, key, value, mask, scaling, extra, hidden=None, residual=None
    ) -> None:
        self.site: Site = site
        self.forward: Forward = forward
        self.host: Callable = host
        self.module: torch.nn.Module = module
        self.query: torch.Tensor = query
        self.key: torch.Tensor = key
        self.value: torch.Tensor = value
        self.mask: torch.Tensor | None = mask
        self.scaling: float | None = scaling
        self.extra: dict[str, Any] = extra
        self.hidden: torch.Tensor | None = hidden
        self.residual: torch.Tensor | None = residual
        self.stats: SiteStats | None = None
        self.edits: list[Edit] = []

    @property
    def layer(self) -> int:
        return self.site.layer

    @property
    def images(self) -> Images | None:
        """The image tokens of the sequence so far; None where nothing stands for an image."""
        return self.forward.images

    @property
    def spec(self) -> MaskSpec | None:
        return self.mask.spec if isinstance(self.mask, LazyMask) else None

    @property
    def offset(self) -> int:
        return self.forward.offset

    @property
    def end(self) -> int:
        """Absolute index just behind the last query row, which is the last visible key."""
        return self.forward.offset + self.query.shape[2]

    @property
    def key_offset(self) -> int:
        if self.forward.held:
            self.require_all_keys()
        spec = self.spec
        if spec is not None:
            return spec.key_offset
        # Without a spec (compiled graph): full layers start at 0, a sliding cache ends at the newest key.
        return 0 if self.site.kind == "full" else max(0, self.end - self.key.shape[2])

    @property
    def held(self) -> SinkWindowLayer | None:
        """The layer's cache where it has dropped tokens, else None.

        `key` and `value` are then what is left of them, not a row of neighbours; only `attend` knows how to read it.
        """
        return self.forward.held.get(self.site.layer)

    @property
    def pattern(self) -> Pattern:
        """The layer's own rule for this call. Raises UnsupportedCallError for a mask the caller built."""
        spec = self.spec
        if spec is not None:
            return spec.pattern
        if self.forward.ready_mask:
            raise UnsupportedCallError(
                f"layer {self.layer} got a ready-made 4-D attention mask, which hides padding and positions from "
                "the method; pass the 2-D attention_mask [batch, tokens] instead."
            )
        window = self.site.window
        return Pattern("causal") if window is None else Pattern("sliding", window)

    @property
    def own_rule(self) -> Causal | Window:
        """What the layer sees without any method."""
        return Causal() if self.site.window is None else Window(self.site.window)

    @property
    def spans(self) -> list[tuple[int, int]] | None:
        """Real tokens of each row as absolute `(start, stop)`, None without padding; once per forward."""
        end = self.end
        known = self.forward.spans_at
        if end not in known:
            spec = self.spec
            padding = spec.padding if spec is not None else self.forward.padding
            lone = self.mask is None and self.query.shape[2] == 1  # it sees all there is, so nothing is padding
            known[end] = None if lone else spans_of(padding, self.query.shape[0], end)
        return known[end]

    def stock(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the layer would have computed without us, from this call's query, key and value, and the edits."""
        if self.forward.held:
            self.require_all_keys()
        if self.stats is not None:
            self.count(self.site.base, None)
        return stock_with_edits(self) if self.edits else self.unedited()

    def unedited(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the host's attention makes of this call's query, key and value."""
        spec = self.spec
        mask = spec.base_mask if spec is not None else self.mask
        return self.host(self.module, self.query, self.key, self.value, mask, scaling=self.scaling, **self.extra)

    def sees_all(self, rule) -> bool:
        """True if `rule` hides nothing from any row of this call that the layer's own rule shows."""
        if self.held is not None:
            return False
        spans = self.spans or [(0, self.end)]
        return all(rule.sees_all(self._length(rule, span)) for span in spans)

    def _length(self, rule, span: tuple[int, int]) -> int:
        total = None if rule is None else rule.length
        return (span[1] if total is None else total) - span[0]

    @property
    def prompt_length(self) -> int | None:
        """Absolute length of the prompt where this forward holds more or less than it, else None."""
        end = self.forward.prompt_end
        return None if self.offset == 0 and end == self.end else end

    def attend_by_phase(self, prefill, decode, inner: Inner) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rows of the prompt under the rule `prefill`, rows behind it under `decode` (None = all keys).

        Rules that hide nothing run as `inner(call)`. Raises UnsupportedCallError where the end of the prompt is
        unknown (see `Forward.prompt_end`).
        """
        rows = self.query.shape[2]
        cut = min(max(self.forward.prompt_end - self.offset, 0), rows)
        parts = [
            (rule, part)
            for rule, part in ((prefill, slice(0, cut)), (decode, slice(cut, rows)))
            if part.start < part.stop
        ]
        if all(rule is None or self.sees_all(rule) for rule, _ in parts):
            return inner(self)
        done = [self.attend(self.own_rule if rule is None else rule, rows=part) for rule, part in parts]
        return done[0] if len(done) == 1 else joined_queries(done)

    def attend(self, rule, *, rows: slice | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention under a sparse `rule` (see attnpatch.kernels), with this call's padding and offsets.

        rows: a slice of the query rows, default all. Returns output `[B, Q, H, Dv]` and weights `[B, H, Q, K]`,
        the latter only if `output_attentions` was asked for.

        Raises:
            UnsupportedCallError: masks the rule cannot be combined with (packed sequences, images that attend
                both ways, ready-made 4-D masks), attention dropout, softcap.
        """
        return attend_under(self, rule, rows or slice(None))

    def edit(self, edit: Edit) -> None:
        """Have the attention of some query rows changed when it is computed further down, by `inner(call)`."""
        self.edits.append(edit)

    def edit_as(self, owner: Hashable, make: Callable[[Call], Edit | None]) -> None:
        """`edit` with what `make(call)` returns, None for no edit; made once and taken by all layers of a forward.

        That of a generated token is also taken by those behind it, while the images stay. owner: one edit for each.
        """
        forward, memo, given = self.forward, (owner, "edit", self.query.shape[2]), None
        known = forward.memo
        if memo[-1] == 1 and forward.offset >= forward.prompt_end:
            known, given = forward.state, (forward.prompt_end, forward.images)
        if memo not in known or known[memo][0] != given:
            known[memo] = (given, make(self))
        if known[memo][1] is not None:
            self.edits.append(known[memo][1])

    def of_rows(self, rows: list[int]) -> Call:
        """The same call for some rows of the batch alone.

        Raises UnsupportedCallError where the layer has dropped tokens from its cache, which all rows share.
        """
        if self.forward.held:
            self.require_all_keys()
        first, last = rows[0], rows[-1] + 1
        if rows == list(range(first, last)):  # neighbours are a view: nothing of the cache is copied
            part = self._part(self.forward.of_rows(tuple(rows)), lambda x: x[first:last], lambda x: x[first:last])
        else:
            at = torch.tensor(rows, device=self.query.device)
            part = self._part(
                self.forward.of_rows(tuple(rows)), lambda x: x.index_select(0, at), lambda x: x.index_select(0, at)
            )
        part.edits = [edit.of_rows(rows) for edit in self.edits]
        return part

    def of_queries(self, first: int, last: int) -> Call:
        """The same call for the query rows first..last-1, which see the same keys."""
        part = self._part(self.forward.of_queries(first, last), lambda x: x[..., first:last, :], lambda x: x)
        part.edits = [edit for edit in (edit.of_queries(first, last) for edit in self.edits) if edit is not None]
        return part

    def of_sample(self, number: int) -> Call:
        """One sample of a packed row, as the call it would be alone."""
        start, tokens, _ = self.forward.samples[number]
        own = slice(start, start + tokens)
        return self._part(self.forward.of_sample(number), lambda x: x[..., own, :], lambda x: x[..., own, :])

    def _part(self, forward: Forward, queries: Callable, keys: Callable) -> Call:
        """`queries` takes what belongs to the part's query rows, `keys` what belongs to its keys."""
        hidden = None if self.hidden is None else queries(self.hidden)
        residual = None if self.residual is None else queries(self.residual)
        part = Call(
            self.site, forward, self.host, self.module, queries(self.query), keys(self.key), keys(self.value),
            mask_of_part(self.mask, forward, self.site.window), self.scaling, self.extra, hidden,
            residual,
        )  # fmt: skip
        part.stats = self.stats
        return part

    def evict(self, *, first: int, last: int) -> None:
        """Drop the layer's keys that no later query will ask for; call it after attending.

        first: tokens at the start of each row that stay. last: tokens up to and with itself that a query sees. A layer
        with a window of its own limits its cache itself and is left alone; without a cache nothing happens.
        """
        if self.pattern.kind == "causal":
            slack = min(self.forward.q_len - 1, DRAFT)
            wanted = eviction.Request(self.layer, first, last, slack, self.spans, self.stats)
            eviction.request(self.forward, wanted)

    def require_all_keys(self) -> None:
        """Raises UnsupportedCallError where the layer has dropped tokens from its cache."""
        if self.held is not None:
            raise UnsupportedCallError(
                f"layer {self.layer} has dropped tokens from its cache (evict=True), so only a sliding window can be "
                f"computed from it. Start with a new cache, or {FIX} in the method that dropped them."
            )

    @property
    def all_spans(self) -> list[tuple[int, int]]:
        """`spans`, also where nothing is padded."""
        return self.spans or [(0, self.end)] * self.query.shape[0]

    def count(self, backend: str, rule, first: int = 0, last: int | None = None) -> None:
        """Add this call's visible pairs to the budget; `rule` None is the layer's own rule."""
        last = self.query.shape[2] if last is None else last
        forward = self.forward
        memo = (backend, self.query.shape[2], rule if rule is not None else self.site.window, first, last)
        tally = forward.tallies.get(memo)
        if tally is None:
            decode = forward.in_decode(forward.offset + first)
            tally = Tally(backend, rule or self.own_rule, self._segments(rule, first, last), decode)
            forward.tallies[memo] = tally
        self.stats.add(tally)

    def _segments(self, rule, first: int, last: int) -> tuple[tuple[int, int, int], ...]:
        """Each row's real query rows as (first, last, number of its tokens)."""
        if self.spans is None:
            segment = (self.offset + first, self.offset + last, self._length(rule, (0, self.end)))
            return (segment,) * self.query.shape[0] if first < last else ()
        rows = []
        for start, stop in self.spans:
            low, high = max(self.offset + first, start), min(self.offset + last, stop)
            if low < high:
                rows.append((low - start, high - start, self._length(rule, (start, stop))))
        return tuple(rows)
