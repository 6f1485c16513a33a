"""One forward pass of the text model: its phase, its padding, and the state that lives with its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from attnpatch.patching.errors import UnsupportedCallError

if TYPE_CHECKING:
    from attnpatch.patching.budget import Tally
    from attnpatch.patching.eviction import Request
    from attnpatch.patching.sink_cache import SinkWindowLayer


class Forward:
    """One forward pass of the text model, shared by all its attention calls.

    offset: absolute index of its first token; index: number of the sequence since `apply()` (a new one starts at
    offset 0 and keeps its number while its cache lives); state: a dict that lives and dies with the cache. Only
    while it runs: cache, the one it was given; held, by layer index, the cache layers that have dropped tokens;
    evictions, what is to be dropped once the model has made a cache.
    """

    __slots__ = (
        "cache", "calls", "declared_prompt", "evictions", "held", "index", "offset", "padding",
        "q_len", "ready_mask", "spans_at", "state", "tallies",
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

    @property
    def prompt_end(self) -> int:
        """Absolute index just behind the prompt; rows before it are prefill, rows from it on are decode.

        Raises UnsupportedCallError when several tokens arrive behind a cache: the next piece of a prompt and
        drafted tokens look the same there.
        """
        if self.declared_prompt is not None:
            return self.declared_prompt
        if self.offset == 0:
            return self.q_len
        if self.q_len == 1:
            return self.state.get("prompt_end", self.offset)
        raise UnsupportedCallError(
            f"{self.q_len} tokens arrived behind a cache of {self.offset}: this may be the next chunk of a prompt or "
            "drafted tokens, and the method treats the two differently. Say where the prompt ends with "
            "`with patch.prompt(input_ids.shape[1]): model.generate(...)`."
        )
