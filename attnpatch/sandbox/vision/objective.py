"""The losses and accuracies of one training step."""

from __future__ import annotations

import torch
from torch.nn import functional

from attnpatch.sandbox.vision import vocabulary as v
from attnpatch.sandbox.vision.rows import CAPTION, QUESTION, Batch

_SHAPE_IDS = [v.ID[word] for word in (*v.SHAPES, v.NOTHING)]
_COLOUR_IDS = [v.ID[word] for word in (*v.COLOURS, v.NOTHING)]


def name_patches(features: torch.Tensor, table: torch.Tensor, shapes: torch.Tensor, colours: torch.Tensor):
    """The loss of naming the shape and the colour that every patch belongs to.

    The projected patch is compared with the word embeddings of the language model, so that what the tower sees is
    written in the language's own terms: a stand-in for the contrastive pretraining of CLIP.

    Args:
        features: projected patches, [B, 36, hidden].
        table: word embeddings, [words, hidden].
        shapes, colours: token ids, [B, 36].

    Returns:
        The loss, and the accuracies of shape and colour where there is an object.
    """
    loss, accuracy, there = torch.zeros(()), {}, shapes != v.ID[v.NOTHING]
    for name, words, labels in (("shape", _SHAPE_IDS, shapes), ("colour", _COLOUR_IDS, colours)):
        logits = (features @ table[words].T).float()
        index = (labels[..., None] == torch.tensor(words)).int().argmax(-1)
        loss = loss + functional.cross_entropy(logits.flatten(0, 1), index.flatten())
        hit = logits.detach().argmax(-1) == index
        accuracy[name] = hit[there].float().mean().item()
    return loss, accuracy


def answer(model, batch: Batch, question_loss: float):
    """Weighted mean loss of the captions plus `question_loss` times that of the answers to questions.

    Returns:
        The loss; accuracies of the captions' shapes and colours, and of the answers; and the projected patches,
        [B * 36, hidden].
    """
    output = model.model(
        input_ids=batch.input_ids,
        pixel_values=batch.pixel_values,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    )
    trained = batch.labels >= 0
    logits = model.lm_head(output.last_hidden_state[trained])
    labels, kinds, weights = batch.labels[trained], batch.kinds[trained], batch.weights[trained]
    nll = weights * functional.cross_entropy(logits, labels, reduction="none")
    caption, question = kinds == CAPTION, kinds == QUESTION
    loss = nll[caption].sum() / weights[caption].sum()
    loss = loss + question_loss * nll[question].sum() / weights[question].sum()
    hit = logits.detach().argmax(-1) == labels
    parts = {
        "shapes": _among(labels, v.SHAPES) & caption,
        "colours": _among(labels, v.COLOURS) & caption,
        "yes_no": _among(labels, ("yes", "no")) & question,
    }
    accuracy = {name: hit[part].float().mean().item() for name, part in parts.items()}
    return loss, accuracy, output.image_hidden_states


def _among(labels: torch.Tensor, words: tuple[str, ...]) -> torch.Tensor:
    return torch.isin(labels, torch.tensor([v.ID[word] for word in words]))
