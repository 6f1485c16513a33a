"""One batch of prompts as GIFT reads it: where the questions are, and how attention to the image jumps there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from attnpatch.methods.vision.gaze import positive_shift, salience_factors, saliency
from attnpatch.patching.columns import Columns
from attnpatch.patching.edits import ROWS_AT_ONCE, stock_weights
from attnpatch.patching.errors import UnsupportedCallError

if TYPE_CHECKING:
    from attnpatch.methods.vision.vocabulary import Vocabulary
    from attnpatch.patching.asides import Given
    from attnpatch.patching.calls import Call

IN_ONE_PIECE = (
    "gift reads a question as a whole, and here a part of a prompt came by itself. Run the prompt in one piece "
    "(without prefill_chunk_size), with a cache of its own, and apply gift before it."
)


class Reading:
    """The questions of a batch of T tokens, and the factors of its image tokens once they have been read.

    image: image tokens, bool `[B, T]`; question, content: for each prompt, the indices of its question's tokens and of
    those among them that carry content.

    Attributes:
        prompts: how many prompts have content tokens.
        parts: fp32 columns `[B, 3, T]`: 1 at image tokens, w - 1 there (0 until read), 1 at tokens of the question.
    """

    def __init__(self, image: torch.Tensor, question: Sequence[list[int]], content: Sequence[list[int]]) -> None:
        batch, tokens = image.shape
        self.image = image
        self.prompts = sum(1 for row in content if row)
        marks = torch.zeros(batch, 4, tokens, device=image.device)  # image, its factors, question, content
        marks[:, 0] = image
        where = [
            (row * 4 + part) * tokens + index
            for part, sets in ((2, question), (3, content))
            for row, indices in enumerate(sets)
            for index in indices
        ]
        marks.view(-1).index_fill_(0, torch.tensor(where, device=image.device, dtype=torch.long), 1)
        self.parts, self._content = Columns(marks[:, :3]), marks[:, 3]
        among = [index for row in content for index in row]
        # Rows that have to be seen: those of content tokens and the ones before them.
        self.first, self.stop = (min(among) - 1, max(among) + 1) if among else (0, 0)

    @classmethod
    def of(cls, given: Given, prompt_end: int, vocabulary: Vocabulary) -> Reading:
        """The questions of what a model was given: per prompt, the text between its last image and its end.

        prompt_end: index just behind the prompts. Raises UnsupportedCallError where the tokens are not known.
        """
        images, padding = given.images, given.padding
        batch, length = images.mask.shape
        if images.ids is None:
            if vocabulary.reads_tokens:
                raise UnsupportedCallError(
                    "gift reads words of the question, and the model was given embeddings in place of tokens. Give "
                    "input_ids, or take content='all' without a tokenizer."
                )
            tokens = [[-1] * length] * batch
        else:
            tokens = images.ids.tolist()
        real = [[True] * length] * batch if padding is None else padding[:, :length].tolist()
        question: list[list[int]] = [[] for _ in tokens]
        content: list[list[int]] = [[] for _ in tokens]
        for row, first in enumerate(images.stop.tolist()):
            if not first:  # no image
                continue
            stop = prompt_end
            while stop > first and not real[row][stop - 1]:  # padding on the right
                stop -= 1
            question[row] = where = vocabulary.question(tokens[row][:stop], first)
            if not where:
                warnings.warn(
                    f"attnpatch: prompt {row} has no text between its last image and its end, so gift finds no "
                    "question to read and leaves its image tokens as they are. Put the image before the question.",
                    stacklevel=2,
                )
            carries = vocabulary.content([tokens[row][index] for index in where])
            content[row] = [index for index, yes in zip(where, carries, strict=True) if yes]
        return cls(images.mask, question, content)

    def parts_at(self, first: int, weights: torch.Tensor) -> torch.Tensor:
        """`parts` beside `weights` `[..., K]`, `[B, 3, K]`: at the keys from `first` on; 0 behind the prompts."""
        return self.parts.at(first, weights.shape[-1]).to(weights)

    @torch.no_grad()
    def shift(self, call: Call) -> torch.Tensor:
        """Sum of the positive gaze shifts of content tokens in `call`, `[B, H, T]` fp32, at its batch rows.

        Raises UnsupportedCallError if the call does not hold all the rows that have to be seen.
        """
        _, rows = call.forward.in_whole()
        content = self._content if rows is None else self._content[list(rows)]
        tokens = content.shape[1]
        total = None
        if self.first < call.offset or self.stop > call.end:
            raise UnsupportedCallError(IN_ONE_PIECE)
        for low in range(self.first, self.stop - 1, ROWS_AT_ONCE):
            high = min(low + ROWS_AT_ONCE + 1, self.stop)
            weights = stock_weights(call, low - call.offset, high - call.offset)
            seen = positive_shift(weights, content[:, low + 1 : high].to(weights))
            behind = tokens - call.key_offset - seen.shape[-1]  # a static cache is longer than the prompt
            seen = F.pad(seen, (call.key_offset, behind)) if call.key_offset or behind else seen
            total = seen if total is None else total + seen
        if total is None:
            return torch.zeros(content.shape[0], call.query.shape[1], tokens, device=call.query.device)
        return total

    def read(self, call: Call, *, alpha: float, deviations: float, share: float) -> None:
        """Set the factors of image tokens by what the layer of `call` does."""
        _, rows = call.forward.in_whole()
        which = slice(None) if rows is None else list(rows)
        image = self.image[which]
        s = saliency(self.shift(call).to(image.device), image, share)
        self.parts.values[which, 1] = salience_factors(s, image, alpha, deviations)
