"""The loss and the accuracies of one training step."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.nn import functional

from attnpatch.sandbox.text.rows import Sample


def loss_and_accuracy(model, batch: list[tuple[str, Sample]], filler_loss: float, bf16: bool):
    """Mean loss of the answers plus `filler_loss` times that of the filler; accuracy of the answers by kind.

    The two means are separate, so that one answer in a long row still counts.
    """
    tokens = torch.tensor([sample.input_ids for _, sample in batch])
    weights = torch.tensor([sample.weights for _, sample in batch])[:, 1:]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    labels = tokens[:, 1:]
    nll = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    answers, filler = weights >= 1, (weights > 0) & (weights < 1)
    loss = nll[answers].sum() / answers.sum().clamp(min=1)
    loss = loss + filler_loss * nll[filler].sum() / filler.sum().clamp(min=1)
    right = (logits.detach().argmax(-1) == labels) & answers
    accuracy: dict[str, list[int]] = {}
    for row, (kind, _) in enumerate(batch):
        tally = accuracy.setdefault(kind, [0, 0])
        tally[0] += int(right[row].sum())
        tally[1] += int(answers[row].sum())
    return loss, {kind: hit / total for kind, (hit, total) in accuracy.items() if total}


@contextmanager
def narrowed(model, layers: tuple[int, ...], window: int, length: int):
    """Run with a sliding window of `window` keys in `layers` (none: leave the model as it is).

    Training with random layers cut short makes the model keep retrieval in more than one layer.
    """
    if not layers:
        yield
        return
    position = torch.arange(length)
    back = position[:, None] - position[None, :]
    mask = ((back >= 0) & (back < window))[None, None]

    def shorten(module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask}

    handles = [model.model.layers[i].register_forward_pre_hook(shorten, with_kwargs=True) for i in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
