"""The logits processor of all contrasts: it runs the second branch in step with the first and combines the two."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import LogitsProcessor

from attnpatch.decoding.beams import parents
from attnpatch.decoding.branch import Branch
from attnpatch.decoding.prompts import Prompts
from attnpatch.patching.errors import UnsupportedCallError

Combine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ContrastProcessor(LogitsProcessor):
    """Contrasts the logits of prompts with an image with those of a second branch; other rows are left untouched.

    combine: logits of the first branch and of the second `[R, V]` fp32 -> new logits, -inf where a token is ruled out.
    Where a prompt has several rows (beams, several sequences of one prompt) they are log-probabilities, so that beam
    scores are sums of what the contrast gives. Processors that `generate` runs before this one (penalties, banned
    tokens) act on the first branch alone. It serves one `generate` call.
    """

    def __init__(self, prompts: Prompts, branch: Branch, combine: Combine) -> None:
        self._prompts = prompts
        self._branch = branch
        self._combine = combine
        self._copies = 0
        self._seen: torch.Tensor | None = None  # the sequences as of the last step
        self._rows: torch.Tensor | None = None  # rows of the batch that hold an image, None for all

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """New logits `[R, V]` for the sequences `[R, T]`.

        Raises UnsupportedCallError for sequences that are not those of the prompts, or do not grow by one token.
        """
        if not self._prompts.images.any:
            return scores
        first = self._seen is None
        if first:
            self._copies = self._copies_in(input_ids)
            if not self._prompts.images.all:
                each = torch.arange(self._copies, device=input_ids.device)
                self._rows = (self._prompts.rows.to(input_ids.device)[:, None] * self._copies + each).flatten()
        sequences = input_ids if self._rows is None else input_ids[self._rows]
        other = self._branch.prompt(self._copies) if first else self._step(sequences)
        self._seen = sequences
        old = scores if self._rows is None else scores[self._rows]
        new = self._combine(old, other.to(old))
        if self._copies > 1:
            new = new.log_softmax(-1)
        return new if self._rows is None else scores.index_copy(0, self._rows, new)

    def _copies_in(self, input_ids: torch.Tensor) -> int:
        prompts = self._prompts.inputs["input_ids"].to(input_ids.device)
        copies = len(input_ids) // len(prompts)
        if not torch.equal(input_ids, prompts.repeat_interleave(copies, 0)):
            raise UnsupportedCallError(
                f"this processor was made for prompts of {list(prompts.shape)} tokens, and generate() runs others, of "
                f"{list(input_ids.shape)}. Make one for each call: companion.processor(model, inputs) with the very "
                "inputs that generate() is given."
            )
        return copies

    def _step(self, sequences: torch.Tensor) -> torch.Tensor:
        if sequences.shape[1] != self._seen.shape[1] + 1:
            raise UnsupportedCallError(
                f"the sequences went from {self._seen.shape[1]} to {sequences.shape[1]} tokens, and a second branch "
                "follows one token at a time. A processor serves one generate() call: get a new one with "
                "companion.processor(model, inputs). Assisted decoding and prompt lookup are not supported."
            )
        order = parents(self._seen, sequences, self._copies) if self._copies > 1 else None
        return self._branch.feed(sequences[:, -1], order)


def ruled_out(logits: torch.Tensor, share: float) -> torch.Tensor:
    """Tokens of `logits` `[R, V]` whose probability is below `share` of the most probable one's, or zero."""
    floor = logits.amax(-1, keepdim=True) + torch.tensor(share, dtype=logits.dtype, device=logits.device).log()
    return (logits < floor) | logits.isneginf()
