"""sliding: each query sees the last `window` keys and the first `sink` keys.

Source: "Efficient Streaming Language Models with Attention Sinks" (StreamingLLM), arXiv 2309.17453. Positions stay
the original ones (masking), where the paper re-indexes them inside the cache.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from attnpatch.kernels import Window
from attnpatch.patching.method import Config, Method, register


class SlidingConfig(Config):
    window: int = Field(1024, ge=1, description="keys a query sees, itself included")
    sink: int = Field(4, ge=0, description="first tokens of the prompt that stay visible to all")
    decode: Literal["sliding", "dense"] = Field("sliding", description="what generated tokens see: the same, or all")
    evict: bool = Field(False, description="drop keys nobody can see any more from the cache, to save memory")

    @model_validator(mode="after")
    def _evicted_keys_cannot_be_read(self) -> SlidingConfig:
        if self.evict and self.decode == "dense":
            raise ValueError("evict=True drops keys that decode='dense' would read; use decode='sliding'")
        return self


@register("sliding")
class Sliding(Method):
    """allowed(i, j) = j <= i and (i - j < window or j < sink), i and j counted among real tokens."""

    Config = SlidingConfig
    summary = "the last `window` keys and the first `sink` keys, nothing in between"
    paper = "StreamingLLM, arXiv 2309.17453"
    neutral = "window >= number of tokens"
    limits = "what lies between sink and window reaches a query only through depth, `window` tokens per layer"
    neutral_options = {"window": 1 << 20}
    small_options = ({"window": 4, "sink": 1}, {"window": 3, "sink": 2, "decode": "dense"})
    replaces_keys = True

    @property
    def evicts(self):
        return self.config.evict

    def attend(self, call, inner):
        own = call.pattern.window
        if own is not None and self.config.window >= own:
            return inner(call)  # the layer's own window is the narrower one
        rule = Window(self.config.window, self.config.sink, reach=own)
        if self.config.decode == "dense":
            return call.attend_by_phase(rule, None, inner)
        output = inner(call) if call.sees_all(rule) else call.attend(rule)
        if self.config.evict:
            call.evict(first=self.config.sink, last=self.config.window)
        return output
