"""What PAI and its relatives share: image tokens score higher in the rows that predict an answer token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attnpatch.methods.vision.base import VisionMethod, answer_rows, boost
from attnpatch.patching.edits import Change, RowsAt

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call


class RaisedImageScores(VisionMethod):
    """e_j + alpha size_j for image tokens j, before the softmax; a subclass says what `size` is. alpha = 0: stock."""

    neutral = "alpha = 0"
    reads_whole_prompt = True

    def size(self, scores: torch.Tensor, at: RowsAt) -> torch.Tensor:
        """How large scores `[B, H, R, K]` (scaled, -inf where nothing is visible) are; broadcastable to them."""
        raise NotImplementedError

    def attend(self, call, inner):
        if self.config.alpha:
            self.edit_rows(call, answer_rows, self._raised, before_softmax=True)
        return inner(call)

    def _raised(self, call: Call) -> Change:
        alpha, marks = self.config.alpha, call.images.marks

        def raised(scores: torch.Tensor, at: RowsAt) -> tuple[torch.Tensor, None]:
            by = at.of(marks.at(at.key_first, scores.shape[-1]))
            return boost(scores, by, self.size(scores, at), at, alpha), None

        return raised
