"""Tasks whose first answer comes early, made fair to methods that read the prompt before they decide.

Running text, and questions strewn over a document, are scored in the second half alone; the first half is what a
method may read. What it is scored on it has not read, and every method is scored on the same tokens.
"""

from __future__ import annotations

from dataclasses import replace

from attnpatch.evaluation.tasks.base import Document


def second_half(document: Document) -> Document:
    """The same text, scored in its second half alone, which no decision may read.

    Raises:
        ValueError: no answer stands there.
    """
    half = len(document.input_ids) // 2
    kept = [index for index, position in enumerate(document.answers) if position >= half]
    if not kept:
        raise ValueError(
            f"the second half of {len(document.input_ids)} tokens holds no answer in document {document.id}"
        )
    new = {old: index for index, old in enumerate(kept)}
    meta = dict(document.meta)
    for name in ("depth", "gap"):
        values = document.per_answer(name)
        if values is not None:
            meta[name] = [values[index] for index in kept]
    if "slices" in meta:
        meta["slices"] = {
            name: [new[index] for index in indices if index in new] for name, indices in meta["slices"].items()
        }
    answers = tuple(document.answers[index] for index in kept)
    return replace(document, answers=answers, meta=meta, context_end=half)
