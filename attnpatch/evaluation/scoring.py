"""Teacher-forced scoring: the whole document in one forward, the argmax at the answers' positions.

A method that reads the whole prompt before it decides would read the answers too. It is told that the prompt ends
where the document's context does, so it decides without them, and the rows behind count as generated tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

import attnpatch
from attnpatch.evaluation.metrics import record
from attnpatch.evaluation.speed import Meter
from attnpatch.evaluation.tasks.base import Document
from attnpatch.patching.patch import Patch


@dataclass
class Outcome:
    """One record per document, in order, and how long prefill and decode took.

    scores: sums and weights per metric, where the task computes them itself. values: metrics of all documents
    together that have no score per document.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    prefill: Meter = field(default_factory=Meter)
    decode: Meter = field(default_factory=Meter)
    scores: dict[str, dict[str, Any]] | None = None
    values: dict[str, float] = field(default_factory=dict)


def batches(
    documents: list[Document], size: int, same: Callable[[Document], Any] = lambda document: None
) -> Iterator[list[Document]]:
    """Consecutive documents, in order, that agree in `same`. Documents of a task have one length: no padding."""
    for _, group in groupby(documents, key=same):
        alike = list(group)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


Split = Callable[[Iterable[list[Document]]], Iterable[list[Document]]]


def every(batches: Iterable[list[Document]]) -> Iterable[list[Document]]:
    """All of them; where several processes share a cell, each has a `Share` in place of this."""
    return batches


def prompt_reader(model: torch.nn.Module) -> Patch | None:
    """A patch in `model` whose method reads the whole prompt before it decides; None without one."""
    try:
        patches = attnpatch.patches(model)
    except TypeError:  # no transformers model, so nothing can be patched
        return None
    return next((patch for patch in patches if any(one.reads_whole_prompt for one in patch.methods)), None)


def keeps_logits(model: torch.nn.Module) -> bool:
    """True if the model can compute logits at chosen positions only."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def input_device(model: torch.nn.Module) -> torch.device:
    """Where the model takes its tokens."""
    return model.get_input_embeddings().weight.device


@torch.inference_mode()
def score_prefill(
    model: torch.nn.Module,
    documents: list[Document],
    batch_size: int,
    advance: Callable[[int], None],
    share: Split = every,
) -> Outcome:
    """Score every document in one forward per batch; `share` picks the batches of this process."""
    outcome, device, short = Outcome(), input_device(model), keeps_logits(model)
    reader = prompt_reader(model)
    alike = {} if reader is None else {"same": lambda document: document.context}
    for batch in share(batches(documents, batch_size, **alike)):
        ids = torch.tensor([document.input_ids for document in batch], device=device)
        # Logits of a large vocabulary at every position would dwarf the model itself.
        needed = sorted({p - 1 for document in batch for p in document.answers})
        extra = {"logits_to_keep": torch.tensor(needed, device=device)} if short else {}
        declared = nullcontext() if reader is None else reader.prompt(batch[0].context)
        with declared, outcome.prefill.measure(ids.numel(), device):
            logits = model(input_ids=ids, use_cache=False, **extra).logits
        column = {p: index for index, p in enumerate(needed)} if short else None
        for row, document in enumerate(batch):
            places = [p - 1 if column is None else column[p - 1] for p in document.answers]
            outcome.records.append(record(document, logits[row, places]))
        advance(len(batch))
    return outcome
