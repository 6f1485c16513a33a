"""What PAI and its relatives share: image tokens score higher in the rows that predict an answer token."""

from __future__ import annotations

import torch

from attnpatch.methods.vision.base import VisionMethod, answer_rows, boost
from attnpatch.patching.edits import Edit, RowsAt


class RaisedImageScores(VisionMethod):
    """e_j + alpha size_j for image tokens j, before the softmax; a subclass says what `size` is. alpha = 0: stock."""

    neutral = "alpha = 0"
    reads_whole_prompt = True

    def size(self, scores: torch.Tensor, at: RowsAt) -> torch.Tensor:
        """How large scores `[B, H, R, K]` (scaled, -inf where nothing is visible) are; broadcastable to them."""
        raise NotImplementedError

    def attend(self, call, inner):
        rows = answer_rows(call) if self.config.alpha else None
        if rows is not None:
            images, memo = call.images, call.forward.memo

            def raised(scores: torch.Tensor, at: RowsAt) -> tuple[torch.Tensor, None]:
                key = (id(self), at.batch, at.key_first, scores.shape[-1])
                if key not in memo:  # the same in every layer
                    memo[key] = self.config.alpha * at.image_keys(images, scores.shape[-1]).to(scores.dtype)
                return boost(scores, memo[key], self.size(scores, at), at), None

            call.edit(Edit(raised, before_softmax=True, first=rows.first, rows=rows.mask, everywhere=True))
        return inner(call)
