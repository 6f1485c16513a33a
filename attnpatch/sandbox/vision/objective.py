"""The losses and accuracies of one training step."""

from __future__ import annotations

import torch
from torch.nn import functional

from attnpatch.sandbox.vision import vocabulary as v
from attnpatch.sandbox.vision.rows import CAPTION, QUESTION, Batch

_SHAPE_IDS = [v.ID[word] for word in (*v.SHAPES, v.NOTHING)]
_COLOUR_IDS = [v.ID[word] for word in (*v.COLOURS, v.NOTHING)]


def name_patches(model, pixels: torch.Tensor, shapes: torch.Tensor, colours: torch.Tensor, bf16: bool):
    """Pretraining of tower and projector: name the shape and the colour that every patch belongs to.

    The projected patch is compared with the word embeddings of the language model, so that what it sees is written
    in the language's own terms: a stand-in for the contrastive pretraining of CLIP.

    Args:
        model: `LlavaForConditionalGeneration`.
        pixels: [B, 3, 48, 48].
        shapes, colours: token ids, [B, 36].
        bf16: autocast.

    Returns:
        The loss, and the accuracies of shape and colour where there is an object.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = torch.stack(model.get_image_features(pixels).pooler_output)
        loss, accuracy, there = 0.0, {}, shapes != v.ID[v.NOTHING]
        for name, words, labels in (("shape", _SHAPE_IDS, shapes), ("colour", _COLOUR_IDS, colours)):
            table = model.get_input_embeddings().weight[words]
            logits = (features @ table.T).float()
            index = (labels[..., None] == torch.tensor(words)).int().argmax(-1)
            loss = loss + functional.cross_entropy(logits.flatten(0, 1), index.flatten())
            hit = logits.detach().argmax(-1) == index
            accuracy[name] = hit[there].float().mean().item()
    return loss, accuracy


def answer(model, batch: Batch, question_loss: float, bf16: bool):
    """Weighted mean loss of the captions plus `question_loss` times that of the answers to questions.

    Returns:
        The loss, and accuracies: of the captions' shapes and colours, and of the answers.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model.model(
            input_ids=batch.input_ids,
            pixel_values=batch.pixel_values,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        trained = batch.labels >= 0
        logits = model.lm_head(hidden[trained]).float()
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
    return loss, {name: hit[part].float().mean().item() for name, part in parts.items()}


def _among(labels: torch.Tensor, words: tuple[str, ...]) -> torch.Tensor:
    return torch.isin(labels, torch.tensor([v.ID[word] for word in words]))
