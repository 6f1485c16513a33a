"""Decode-mode scoring: the context is prefilled, then the question is fed token by token over the cache.

Methods whose decode differs from their prefill show the difference here. Still teacher forced: the token fed at a step
is the document's, so every answer is scored given the right ones before it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from attnpatch.evaluation.metrics import record
from attnpatch.evaluation.scoring import Outcome, Split, batches, every, input_device, keeps_logits
from attnpatch.evaluation.tasks.base import Document

LEAD = 2  # tokens of the question that are fed in decode before the first answer


@torch.inference_mode()
def score_decode(
    model: torch.nn.Module,
    documents: list[Document],
    batch_size: int,
    advance: Callable[[int], None],
    share: Split = every,
) -> Outcome:
    """Score every document; the context ends two tokens before its first answer, or where the document says."""
    outcome, device = Outcome(), input_device(model)
    for batch in share(batches(documents, batch_size, same=_split)):
        if _split(batch[0]) < 1:
            raise ValueError("the first answer stands at the start of the document: there is no context to prefill")
        ids = torch.tensor([document.input_ids for document in batch], device=device)
        _score_batch(model, batch, ids, _split(batch[0]), outcome)
        advance(len(batch))
    return outcome


def _split(document: Document) -> int:
    return min(document.context, document.answers[0] - LEAD)


def _score_batch(model, batch: list[Document], ids: torch.Tensor, split: int, outcome: Outcome) -> None:
    one = {"logits_to_keep": 1} if keeps_logits(model) else {}
    with outcome.prefill.measure(ids[:, :split].numel(), ids.device):
        cache = model(input_ids=ids[:, :split], use_cache=True, **one).past_key_values
    last = max(document.answers[-1] for document in batch)
    rows = []
    with outcome.decode.measure((last - split) * len(batch), ids.device):
        for position in range(split, last):
            step = model(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            rows.append(step.logits[:, -1])
    for index, document in enumerate(batch):
        outcome.records.append(record(document, torch.stack([rows[p - 1 - split][index] for p in document.answers])))
