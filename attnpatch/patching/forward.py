"""One forward pass of the text model: its phase, its padding, and the state that lives with its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from attnpatch.patching.errors import UnsupportedCallError

if TYPE_CHECKING:
    from attnpatch.patching.budget import Tally
    from attnpatch.patching.eviction import Request
    from attnpatch.patching.images import Given, Images
    from attnpatch.patching.sink_cache import SinkWindowLayer


class PackedSample(NamedTuple):
    """One sample of a packed row: where it starts, its tokens, and how many of them are its prompt."""

    start: int
    tokens: int
    prompt: int


class Forward:
    """One forward pass of the text model, shared by all its attention calls.

    offset: absolute index of its first token; index: number of the sequence since `apply()` (a new one starts at
    offset 0 and keeps its number while its cache lives); state: a dict that lives and dies with the cache. Only
    while it runs: cache, the one it was given; held, by layer index, the cache layers that have dropped tokens;
    evictions, what is to be dropped once the model has made a cache.

    images: the image tokens of the sequence so far, None where no method asks or nothing stands for an image.
    given: at the start of a prompt and only for methods that ask, what the model was called with. aside: what a method
    runs a pass of its own for, None in the user's. residual: what entered the decoder layer at hand `[B, Q, hidden]`,
    for methods that ask. memo: what one call works out for the others.

    Some rows of the batch, some query rows, and one sample of a packed row are forwards of their own (`of_rows`,
    `of_queries`, `of_sample`). whole: the forward that this one is part of; rows: which of its rows; sample: the
    number of the sample.
    """

    __slots__ = (
        "aside", "cache", "calls", "declared_prompt", "evictions", "given", "held", "images", "index", "masks", "memo",
        "offset", "padding", "parts", "q_len", "ready_mask", "residual", "rows", "sample", "samples", "spans_at",
        "state", "tallies", "whole",
    )  # fmt: skip

    def __init__(
        self,
        *,
        q_len: int = 0,
        offset: int = 0,
        padding: torch.Tensor | None = None,
        ready_mask: bool = False,
        index: int = 0,
        state: dict | None = None,
        declared_prompt: int | None = None,
        cache: Any = None,
    ) -> None:
        self.q_len = q_len
        self.offset = offset
        self.padding = padding
        self.ready_mask = ready_mask
        self.index = index
        self.state = {} if state is None else state
        self.declared_prompt = declared_prompt
        self.cache = cache
        self.held: dict[int, SinkWindowLayer] = {}
        self.evictions: list[Request] = []
        self.calls = 0
        self.tallies: dict[tuple, Tally] = {}
        self.spans_at: dict = {}
        self.masks: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
        self.images: Images | None = None
        self.given: Given | None = None
        self.aside: object | None = None
        self.residual: torch.Tensor | None = None
        self.memo: dict = {}
        self.samples: tuple[PackedSample, ...] | None = None
        self.sample: int | None = None
        self.rows: tuple[int, ...] | None = None
        self.parts: dict[tuple, Forward] = {}
        self.whole: Forward | None = None

    def of_rows(self, rows: tuple[int, ...]) -> Forward:
        """The same forward for some rows of the batch."""
        padding = None if self.padding is None else self.padding[list(rows)]
        part = self._part(("rows", rows), padding=padding, state=self.state.setdefault(("rows", rows), {}))
        part.rows = rows
        part.images = None if self.images is None else self.images.of_rows(list(rows))
        return part

    def of_queries(self, first: int, last: int) -> Forward:
        """The same forward for its query rows first..last-1."""
        part = self._part(("queries", first, last), offset=self.offset + first, q_len=last - first)
        part.held, part.images = self.held, self.images
        return part

    def of_sample(self, number: int) -> Forward:
        """One sample of a packed row, as the forward it would be alone."""
        sample = self.samples[number]
        part = self._part(
            ("sample", number),
            q_len=sample.tokens,
            padding=None,
            index=self.index + number,
            state=self.state.setdefault(("sample", number), {}),
            declared_prompt=sample.prompt,
        )
        part.sample = number
        return part

    def _part(self, key: tuple, **changes: Any) -> Forward:
        """One object per part, so that what its first call works out serves all layers."""
        if key not in self.parts:
            own = ("q_len", "offset", "padding", "ready_mask", "index", "state", "declared_prompt")
            part = self.parts[key] = Forward(**{name: getattr(self, name) for name in own} | changes)
            part.whole, part.aside = self, self.aside
        return self.parts[key]

    def in_whole(self) -> tuple[Forward, tuple[int, ...] | None]:
        """The forward that this one is part of in the end, and which of its batch rows this one has, None for all."""
        forward, rows = self, None
        while forward.whole is not None:
            if forward.rows is not None:
                rows = forward.rows if rows is None else tuple(forward.rows[row] for row in rows)
            forward = forward.whole
        return forward, rows

    def in_decode(self, row: int) -> bool:
        """Is the query row with this absolute index behind the prompt? Without a declared prompt, by its forward."""
        if self.declared_prompt is not None:
            return row >= self.declared_prompt
        return self.offset > 0 if self.whole is None else self.whole.in_decode(row)

    @property
    def prompt_end(self) -> int:
        """Absolute index just behind the prompt; rows before it are prefill, rows from it on are decode.

        Raises UnsupportedCallError when several tokens arrive behind a cache: the next piece of a prompt and
        drafted tokens look the same there.
        """
        if self.declared_prompt is not None:
            return self.declared_prompt
        if self.whole is not None:
            return self.whole.prompt_end
        if self.offset == 0:
            return self.q_len
        if self.q_len == 1:
            return self.state.get("prompt_end", self.offset)
        raise UnsupportedCallError(
            f"{self.q_len} tokens arrived behind a cache of {self.offset}: this may be the next chunk of a prompt or "
            "drafted tokens, and the method treats the two differently. Say where the prompt ends with "
            "`with patch.prompt(input_ids.shape[1]): model.generate(...)`."
        )


def fitting_samples(
    samples: tuple[PackedSample, ...],
    tokens: torch.Tensor,
    positions: torch.Tensor | None,
    mask: object | None,
    cache: object | None,
) -> tuple[PackedSample, ...]:
    """`samples`, if they are what this forward holds; else raises UnsupportedCallError."""
    total = samples[-1].start + samples[-1].tokens
    if tokens.shape[0] != 1 or tokens.shape[1] != total or mask is not None or cache is not None:
        raise UnsupportedCallError(
            f"patch.packed() declared one row of {total} tokens without attention_mask and cache, got "
            f"{list(tokens.shape[:2])} tokens; pass input_ids [1, {total}] with position_ids and use_cache=False."
        )
    starts = [sample.start for sample in samples]
    if positions is None or positions.shape[-1] != total or bool(positions[..., starts].any()):
        raise UnsupportedCallError(
            "a packed row needs position_ids that start at 0 with every sample, so that each has its own positions."
        )
    return samples
