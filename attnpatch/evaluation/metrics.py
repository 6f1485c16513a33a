"""From answers to scores: one record a document, one metric a sum and a weight per document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attnpatch.evaluation.statistics import Interval, mean_interval, paired_mean, paired_ratio, ratio_interval
from attnpatch.evaluation.tasks.base import Document, Task
from attnpatch.evaluation.tasks.by_position import POSITIONS, SLICE

BINS = 8  # of depth


@dataclass(frozen=True)
class Metric:
    """How per-document sums and weights become one number.

    kind: "mean" (mean over documents of sum / weight) or "perplexity" (exp of the corpus ratio). scale: what the
    mean is multiplied with.
    """

    name: str
    label: str
    kind: str
    scale: float = 1.0

    def interval(self, sums: Sequence[float], weights: Sequence[float]) -> Interval:
        if self.kind == "mean":
            return mean_interval([s / w for s, w in zip(sums, weights, strict=True)]).scaled(self.scale)
        return ratio_interval(sums, weights, exponential=True)

    def delta(self, sums, weights, base_sums, base_weights) -> Interval:
        """Paired difference to a baseline on the same documents."""
        if self.kind == "mean":
            scores = [s / w for s, w in zip(sums, weights, strict=True)]
            baseline = [s / w for s, w in zip(base_sums, base_weights, strict=True)]
            return paired_mean(scores, baseline).scaled(self.scale)
        return paired_ratio(sums, weights, base_sums, base_weights, exponential=True)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", "mean"),
        Metric("candidate_accuracy", "accuracy among the values in the prompt", "mean"),
        Metric("perplexity", "perplexity", "perplexity"),
        Metric("long_range_perplexity", "perplexity of recurring names", "perplexity"),
        Metric("string_match_all", "share of references found, 0 to 100", "mean", 100.0),
        Metric("string_match_part", "any reference found, 0 to 100", "mean", 100.0),
    )
}


def record(document: Document, logits: torch.Tensor) -> dict[str, Any]:
    """What one document's answers got.

    logits: `[answers, vocabulary]`, at the positions before the answers.
    """
    targets = torch.tensor([document.input_ids[p] for p in document.answers], device=logits.device)
    logits = logits.float()
    nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()
    predicted = logits.argmax(-1)
    hits = (predicted == targets).int().tolist()
    out: dict[str, Any] = {
        "id": document.id,
        "prompt": document.digest,
        "tokens": len(hits),
        "correct": sum(hits),
        "nll": math.fsum(nll),
    }
    candidates = document.meta.get("candidates")
    if candidates and len(candidates) > 1:
        allowed = torch.tensor(candidates, device=logits.device)
        chosen = allowed[logits[:, allowed].argmax(-1)]
        out["candidates_correct"] = int((chosen == targets).sum())
    for name, indices in (document.meta.get("slices") or {}).items():
        out[name] = {"tokens": len(indices), "nll": math.fsum(nll[i] for i in indices)}
    if len(hits) <= 64:  # what was predicted is worth reading for answers, not for running text
        out.update(hits=hits, predicted=predicted.tolist(), references=targets.tolist())
        for name in ("depth", "gap"):
            values = document.per_answer(name)
            if values is not None:
                out[name] = values
        if "place" in document.meta:
            out["place"] = document.meta["place"]
    return out


def scores(task: Task, records: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """`{metric: {"sums": [...], "weights": [...]}}`, one entry per document."""
    if task.metric.startswith("string_match"):
        hits = [one["hits"] for one in records]
        return {task.metric: {"sums": [sum(one) for one in hits], "weights": [len(one) for one in hits]}}
    tokens = [one["tokens"] for one in records]
    if task.metric == "perplexity":
        found = {"perplexity": {"sums": [one["nll"] for one in records], "weights": tokens}}
        if any("long_range" in one for one in records):
            parts = [one.get("long_range", {"nll": 0.0, "tokens": 0}) for one in records]
            found["long_range_perplexity"] = {
                "sums": [part["nll"] for part in parts],
                "weights": [part["tokens"] for part in parts],
            }
    else:
        found = {"accuracy": {"sums": [one["correct"] for one in records], "weights": tokens}}
        if all("candidates_correct" in one for one in records):
            found["candidate_accuracy"] = {"sums": [one["candidates_correct"] for one in records], "weights": tokens}
    for name, columns in found.items():
        if not all(math.isfinite(value) for value in columns["sums"]):
            raise FloatingPointError(f"{name} is not finite: the model's logits overflow; use --dtype float32")
    return found


def by_depth(records: list[dict[str, Any]]) -> dict[str, list[float]] | None:
    """Correct answers and answers per depth (0 = start of the context); None if the task has no depth."""
    hits = [
        (one.get("place", depth), hit)
        for one in records
        for depth, hit in zip(one.get("depth", ()), one.get("hits", ()), strict=False)
    ]
    return _per_depth(records, hits, "correct") if hits else None


def reach_by_depth(records: list[dict[str, Any]], reached: list[int] | None) -> dict[str, list[float]] | None:
    """Documents whose fact the mask lets through to the question, and documents, per depth; None if unknown."""
    if reached is None:
        return None
    for one, hit in zip(records, reached, strict=True):
        one["reach"] = hit
    return _per_depth(records, [(one.get("place", one["depth"][0]), one["reach"]) for one in records], "reached")


def _per_depth(records, hits: list[tuple[float, int]], name: str) -> dict[str, list[float]]:
    """Hits at the depths that were asked for, or in equal bins, named by their middles, where depths were drawn."""
    chosen = all("place" in one for one in records)
    at = sorted({depth for depth, _ in hits}) if chosen else [(i + 0.5) / BINS for i in range(BINS)]
    found, total = [0] * len(at), [0] * len(at)
    for depth, hit in hits:
        index = at.index(depth) if chosen else min(BINS - 1, max(0, int(depth * BINS)))
        total[index] += 1
        found[index] += hit
    return {"at": at, name: found, "total": total}


def by_position(records: list[dict[str, Any]]) -> dict[str, list[float]] | None:
    """Summed negative log-likelihood and tokens per bin of positions; None if the task is not scored by position."""
    names = [SLICE.format(index) for index in range(POSITIONS)]
    if not records or any(name not in one for one in records for name in names):
        return None
    return {what: [math.fsum(one[name][what] for one in records) for name in names] for what in ("nll", "tokens")}
