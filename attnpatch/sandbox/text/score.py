"""Teacher-forced scoring of sandbox samples with any causal language model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from attnpatch.sandbox.text.data import TASKS, samples
from attnpatch.sandbox.text.rows import Sample


@dataclass(frozen=True)
class Score:
    """Scores of some samples of one task.

    Attributes:
        accuracy: share of the answer tokens that the argmax hits.
        exact: share of the rows with every answer token right.
        restricted: accuracy of the argmax over the row's candidate values (NaN where a task has none).
        perplexity: of the answer tokens.
        long_range: perplexity of the tokens that need an earlier mention (NaN where a task has none).
        answers: number of answer tokens scored.
    """

    accuracy: float
    exact: float
    restricted: float
    perplexity: float
    long_range: float
    answers: int


@torch.inference_mode()
def score(model, rows: list[Sample], batch_tokens: int = 8192) -> Score:
    """Score rows of one length. Position p is predicted from the logits at p - 1."""
    size = max(1, batch_tokens // len(rows[0].input_ids))
    hits: list[bool] = []
    exact: list[bool] = []
    restricted: list[bool] = []
    nll: list[float] = []
    far: list[float] = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        tokens = torch.tensor([row.input_ids for row in part], device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits.float()
        for row, ids, scores in zip(part, tokens, logits, strict=True):
            at = torch.tensor(row.answer_positions, device=ids.device)
            labels, asked = ids[at], scores[at - 1]
            right = asked.argmax(-1) == labels
            hits += right.tolist()
            exact.append(bool(right.all()))
            nll += functional.cross_entropy(asked, labels, reduction="none").tolist()
            if "candidates" in row.meta:
                allowed = torch.tensor(row.meta["candidates"], device=ids.device)
                restricted += (allowed[asked[:, allowed].argmax(-1)] == labels).tolist()
            if row.meta.get("long_range_positions"):
                at = torch.tensor(row.meta["long_range_positions"], device=ids.device)
                far += functional.cross_entropy(scores[at - 1], ids[at], reduction="none").tolist()
    return Score(
        accuracy=_mean(hits),
        exact=_mean(exact),
        restricted=_mean(restricted),
        perplexity=math.exp(_mean(nll)),
        long_range=math.exp(_mean(far)) if far else math.nan,
        answers=len(hits),
    )


def _mean(values: list) -> float:
    return sum(values) / len(values) if values else math.nan


def evaluate_card(
    model, tokenizer=None, lengths: tuple[int, ...] = (512, 1024, 2048), count: int = 50, stream: str = "test"
) -> list[dict]:
    """Score every task at every length: one dict per (task, length), for the model card.

    Keys: task, length, metric, rows, answers, accuracy, exact, restricted, perplexity, long_range (floats; NaN
    where a task has no such number). `tokenizer`, if given, must have the sandbox vocabulary.

    Raises:
        ValueError: the tokenizer is of another vocabulary.
    """
    from attnpatch.sandbox.text.vocabulary import ID

    if tokenizer is not None and tokenizer.get_vocab() != ID:
        raise ValueError("the tokenizer does not have the sandbox vocabulary: load both with attnpatch.sandbox.load")
    table = []
    for length in lengths:
        for name, spec in TASKS.items():
            result = score(model, samples(name, length, count, stream))
            table.append({"task": name, "length": length, "metric": spec.metric, "rows": count, **vars(result)})
    return table
