"""triangle: a sliding window with sinks for the prompt, but its last rows see everything.

Source: the triangle ("TA") arm of "Flux Attention", arXiv 2604.07394, after TriangleMix.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attnpatch.kernels import Window
from attnpatch.patching.errors import UnsupportedCallError
from attnpatch.patching.method import Config, Method, register
from attnpatch.patching.parts import joined_queries, joined_rows


class TriangleConfig(Config):
    sink: int = Field(128, ge=0, description="first tokens of the prompt that stay visible to all")
    window: int = Field(2048, ge=1, description="keys a query sees, itself included")
    last: int = Field(128, ge=0, description="tokens at the end of the prompt that see all keys")
    decode: Literal["sliding", "dense"] = Field("sliding", description="what generated tokens see: a window, or all")


@register("triangle")
class Triangle(Method):
    """allowed(i, j) = j <= i and (i - j < window or j < sink or prompt - last <= i < prompt)."""

    Config = TriangleConfig
    summary = "a sliding window with sinks, and all keys for the last `last` tokens of the prompt"
    paper = "Flux Attention (its triangle arm), arXiv 2604.07394"
    neutral = "window >= number of tokens"
    limits = (
        "generated tokens see the window (decode='sliding'): what lies further back reaches them through the last rows"
    )
    neutral_options = {"window": 1 << 20}
    small_options = (
        {"window": 3, "sink": 1, "last": 2},
        {"window": 2, "sink": 2, "last": 3, "decode": "dense"},
    )
    depends_on_length = True
    replaces_keys = True

    def attend(self, call, inner):
        config, own = self.config, call.pattern.window
        if own is not None and config.window >= own:
            return inner(call)  # the layer's own window is the narrower one
        window = Window(config.window, config.sink, reach=own)
        if call.sees_all(window):
            return inner(call)
        groups: dict[int, list[int]] = {}  # batch rows by where their prompt ends
        for row in range(call.query.shape[0]):
            groups.setdefault(self._prompt_stop(call, row), []).append(row)
        if len(groups) == 1:
            return self._attend(call, next(iter(groups)), window, inner)
        return joined_rows(
            [(rows, self._attend(call.of_rows(rows), stop, window, inner)) for stop, rows in groups.items()]
        )

    def _attend(self, call, stop: int, window: Window, inner):
        """Rows whose prompt ends at `stop`: a window, then all keys, then what generated tokens see."""
        generated = window if self.config.decode == "sliding" else call.own_rule
        edges = [0, stop - self.config.last - call.offset, stop - call.offset, call.query.shape[2]]
        edges = [min(max(edge, 0), edges[-1]) for edge in edges]
        segments = [
            (rule, slice(first, last))
            for rule, first, last in zip((window, call.own_rule, generated), edges, edges[1:], strict=False)
            if first < last
        ]
        if all(rule == call.own_rule for rule, _ in segments):
            return inner(call)
        return joined_queries([call.attend(rule, rows=rows) for rule, rows in segments])

    def _prompt_stop(self, call, row: int) -> int:
        """Absolute index behind the last prompt token of a batch row.

        Raises UnsupportedCallError for a row whose end shows only after its last tokens have been computed.
        """
        end = call.forward.prompt_end
        start, stop = (0, call.end) if call.spans is None else call.spans[row]
        if stop >= min(end, call.end):
            return end
        if start < stop and stop >= call.offset > max(stop - self.config.last, start):
            raise UnsupportedCallError(
                f"row {row} of the batch turns out to end at token {stop}, with padding behind it, after some of its "
                f"last {self.config.last} tokens were computed in an earlier chunk of the prompt. Pad the batch on "
                "the left, or run the prompt in one piece."
            )
        return stop
