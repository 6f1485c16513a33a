"""What a model writes about pictures: greedy, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.generation import continued, end_tokens, greedy, require_generation
from attnpatch.evaluation.scoring import Outcome, Split, batches, every, input_device
from attnpatch.evaluation.vision.documents import PictureDocument
from attnpatch.evaluation.vision.prompts import Prompter, on_device


@torch.inference_mode()
def score_pictures(
    prompter: Prompter,
    tokens: int,
    model: torch.nn.Module,
    documents: list[PictureDocument],
    batch_size: int,
    advance: Callable[[int], None],
    share: Split = every,
) -> Outcome:
    """Let the model answer every prompt in `tokens` new tokens at most.

    Raises:
        SkipCell: the model cannot generate, or has too few positions.
        RuntimeError: a picture cannot be decoded.
    """
    require_generation(model)
    outcome, tokenizer = Outcome(), prompter.tokenizer
    ends = end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    with greedy(model, tokens, ends, pad):
        for batch in share(batches(documents, batch_size)):
            inputs = on_device(prompter.inputs(batch), model, input_device(model))
            _require_room(model, inputs, tokens)
            lengths = inputs["attention_mask"].sum(1).tolist()
            new = continued(model, inputs, ends, outcome)
            for document, ids, length in zip(batch, new, lengths, strict=True):
                text = tokenizer.decode(ids, skip_special_tokens=True).strip()
                outcome.records.append(picture_record(document, text, length, len(ids)))
            advance(len(batch))
    return outcome


def picture_record(document: PictureDocument, prediction: str, length: int, generated: int) -> dict[str, Any]:
    """What is kept of one answer: enough to score it again by any rule."""
    return {
        "id": document.id,
        "prompt": document.digest,
        "prompt_tokens": length,
        "generated_tokens": generated,
        "prediction": prediction,
        "references": list(document.references),
        "image": document.picture.name,
        "group": document.group,
        **({"extra": document.extra} if document.extra else {}),
    }


def _require_room(model: torch.nn.Module, inputs: dict[str, Any], tokens: int) -> None:
    longest = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    needed = inputs["input_ids"].shape[1] + tokens
    if longest is not None and needed > longest:
        raise SkipCell(
            f"a prompt with its picture and {tokens} new tokens takes {needed} positions, the model has {longest}",
            "lower --answer-tokens or --caption-tokens",
        )
