"""What PAI and its relatives share: image tokens score higher in the rows that predict an answer token."""

from __future__ import annotations

import torch

from attnpatch.methods.vision.base import VisionMethod, answer_rows, boost
from attnpatch.patching.edits import Edit, RowsAt


class RaisedImageScores(VisionMethod):
    """e_j + by_j for image tokens j, before the softmax; a subclass says what `by` is. Option `alpha` = 0: stock."""

    neutral = "alpha = 0"
    reads_whole_prompt = True

    def by(self, scores: torch.Tensor) -> torch.Tensor:
        """What to add to the scores `[B, H, R, K]` (scaled, -inf where nothing is visible); broadcastable to them."""
        raise NotImplementedError

    def attend(self, call, inner):
        rows = answer_rows(call) if self.config.alpha else None
        if rows is not None:
            images = call.images

            def raised(scores: torch.Tensor, at: RowsAt) -> tuple[torch.Tensor, None]:
                return boost(scores, at.image_keys(images, scores.shape[-1]), self.by(scores)), None

            call.edit(Edit(raised, before_softmax=True, first=rows.first, rows=rows.mask, everywhere=True))
        return inner(call)
