"""xattention: block-sparse prefill; the blocks come from attention scored on strided antidiagonals.

Source: "XAttention: Block Sparse Attention with Antidiagonal Scoring", arXiv 2503.16428, estimate and choice of blocks
as in its released code. Blocks are chosen for each row of a batch, from its first real token on.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from attnpatch.kernels import Blocks, Causal, block_mass, choose_blocks
from attnpatch.patching.errors import UnsupportedCallError
from attnpatch.patching.method import Config, Method, register
from attnpatch.patching.parts import joined_rows

CHUNK = 2048


class XAttentionConfig(Config):
    stride: int = Field(16, ge=1, description="S: one of S x S scores is estimated")
    threshold: float = Field(0.9, gt=0, description="share of the estimated mass that kept blocks hold; 1 keeps all")
    block: int = Field(128, ge=1, description="tokens of a block, a multiple of stride")
    norm: float = Field(1.0, gt=0, description="extra divisor of the estimated scores")
    select: Literal["inverse", "slash", "random"] = Field(
        "inverse", description="pairs scored in each S x S tile: the antidiagonal, the diagonal, or a fixed shuffle"
    )
    chunk: Literal["auto"] | int = Field(
        "auto", description=f"queries estimated at once, a multiple of block: memory, not results; auto: {CHUNK}"
    )
    share_group: bool = Field(
        False, description="heads of a group keep the same blocks, by their mean mass (not in the paper)"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> XAttentionConfig:
        if self.block % self.stride:
            near = max(self.block // self.stride, 1) * self.stride
            raise ValueError(f"block={self.block} must be a multiple of stride={self.stride}, for example {near}")
        if self.chunk != "auto" and (self.chunk < self.block or self.chunk % self.block):
            raise ValueError(f"chunk={self.chunk} must be 'auto' or a multiple of block={self.block}")
        return self


@register("xattention")
class XAttention(Method):
    """Each query block of a head sees the first block, its own, and the heaviest others up to `threshold`."""

    Config = XAttentionConfig
    summary = "blocks of keys that hold most of the prompt's attention, estimated on antidiagonals"
    paper = "XAttention, arXiv 2503.16428"
    neutral = "threshold = 1"
    limits = "prefill only; chunks of a prompt must end on block boundaries; layers with a window are left alone"
    neutral_options = {"threshold": 1.0}
    small_options = (
        {"stride": 1, "block": 1, "threshold": 0.5},
        {"stride": 1, "block": 1, "threshold": 0.6, "select": "slash", "share_group": True},
    )
    depends_on_length = True
    replaces_keys = True
    reads_whole_prompt = True

    def check(self, site):
        return "the layer has a sliding window of its own" if site.kind == "sliding" else super().check(site)

    def attend(self, call, inner):
        if self.config.threshold >= 1:
            return inner(call)
        end = min(call.forward.prompt_end, call.end)
        if end <= call.offset:
            return inner(call)  # generated tokens see all keys
        spans = call.spans or [(0, call.end)] * call.query.shape[0]
        rules = [self.rule(call, row, start, min(stop, end)) for row, (start, stop) in enumerate(spans)]
        if all(isinstance(rule, Causal) for rule in rules):
            return inner(call)
        parts = [call] if len(rules) == 1 else [call.of_rows([row]) for row in range(len(rules))]
        done = [part.attend_by_phase(rule, None, inner) for part, rule in zip(parts, rules, strict=True)]
        if call.stats is not None:
            call.stats.settle()  # counted now, or every call's lists would wait for a report
        return joined_rows([([row], attended) for row, attended in enumerate(done)])

    def rule(self, call, row: int, start: int, stop: int) -> Blocks | Causal:
        """What the prompt's queries of this call see in one batch row; start..stop-1 are its prompt tokens so far.

        Raises UnsupportedCallError for a chunk of a prompt that begins or ends inside a block.
        """
        config = self.config
        first, last = max(call.offset - start, 0), stop - start
        if first >= last:
            return Causal()
        first = self._boundary(call, row, first)
        if stop == call.end < call.forward.prompt_end:
            self._boundary(call, row, last)
        if first >= last:
            return Causal()
        mass = block_mass(
            call.query[row, :, start + first - call.offset : stop - call.offset],
            call.key[row, :, start - call.key_offset : stop - call.key_offset],
            stride=config.stride,
            block=config.block,
            scale=call.scaling,
            norm=config.norm,
            select=config.select,
            chunk=max(CHUNK // config.block, 1) * config.block if config.chunk == "auto" else config.chunk,
        )
        if config.share_group:
            group = mass.shape[0] // call.key.shape[1]
            mass = mass.unflatten(0, (-1, group)).mean(1).repeat_interleave(group, 0)
        base = first // config.block
        return Blocks(choose_blocks(mass, config.threshold, first=base), config.block, base)

    def _boundary(self, call, row: int, place: int) -> int:
        """Where a chunk may begin or end: `place`, or behind the two blocks that are kept whatever they hold."""
        block = self.config.block
        if place > 2 * block and place % block:
            raise UnsupportedCallError(
                f"xattention chooses the keys of {block} queries at once, but a chunk of the prompt begins or ends at "
                f"token {place} of row {row}, inside such a block. Let chunks end on multiples of {block} tokens, "
                "counted from each row's first real token (prefill_chunk_size="
                f"{(place // block + 1) * block} without left padding), or run the prompt in one piece."
            )
        return max(place, 2 * block)
