"""Scoring by what the model writes: greedy generation behind a prompt, then a match with the references.

The post-processing and the match are RULER's (NVIDIA/RULER, arXiv 2404.06654).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from attnpatch.evaluation import companions
from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.scoring import Outcome, Split, batches, every, input_device
from attnpatch.evaluation.speed import synchronise
from attnpatch.evaluation.tasks.base import Document, Generation

_CONTROL = re.compile(r"[\x00-\x1f]")


def cleaned(prediction: str) -> str:
    """A prediction without control characters, which become line breaks, and without space around it."""
    return _CONTROL.sub("\n", prediction.strip()).strip()


def matches(prediction: str, references: Sequence[str], match: str) -> list[int]:
    """1 for each reference that the prediction holds, whatever its case; one entry for any of them if "part"."""
    text = prediction.lower()
    hits = [int(reference.lower() in text) for reference in references]
    return [max(hits)] if match == "part" else hits


def prediction_record(document: Document, prediction: str, generated: int, generation: Generation) -> dict[str, Any]:
    """What one prediction got; `generated` tokens, the end token included."""
    prediction = cleaned(prediction)
    hits = matches(prediction, document.references, generation.match)
    record = {
        "id": document.id,
        "prompt": document.digest,
        "prompt_tokens": len(document.input_ids),
        "generated_tokens": generated,
        "prediction": prediction,
        "references": list(document.references),
        "hits": hits,
        "score": 100 * sum(hits) / len(hits),
    }
    depths = document.meta.get("depth")
    if depths is not None and len(depths) == len(hits):
        record["depth"] = depths
    if "place" in document.meta:
        record["place"] = document.meta["place"]
    return record


@torch.inference_mode()
def score_generate(
    generation: Generation,
    model: torch.nn.Module,
    documents: list[Document],
    batch_size: int,
    advance: Callable[[int], None],
    share: Split = every,
) -> Outcome:
    """Let the model continue every prompt. Prompts of a batch that differ in length are padded on the left.

    Raises:
        SkipCell: the model cannot generate.
    """
    require_generation(model)
    outcome, ends = Outcome(), end_tokens(model, generation.tokenizer)
    pad = generation.tokenizer.pad_token_id
    pad = pad if pad is not None else min(ends, default=0)
    with greedy(model, generation.tokens, ends, pad):
        for batch in share(batches(documents, batch_size)):
            inputs = _padded(batch, pad, input_device(model))
            for document, ids in zip(batch, continued(model, inputs, ends, outcome), strict=True):
                text = generation.tokenizer.decode(ids, skip_special_tokens=True)
                outcome.records.append(prediction_record(document, text, len(ids), generation))
            advance(len(batch))
    return outcome


def require_generation(model: torch.nn.Module) -> None:
    """Raise SkipCell for a model that cannot generate."""
    if not (callable(getattr(model, "generate", None)) and getattr(model, "generation_config", None) is not None):
        raise SkipCell(f"{type(model).__name__} cannot generate text", "take a causal language model")


def _padded(batch: list[Document], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    longest = max(len(document.input_ids) for document in batch)
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros_like(ids)
    for row, document in enumerate(batch):
        tokens = torch.tensor(list(document.input_ids))
        ids[row, longest - len(tokens) :] = tokens
        mask[row, longest - len(tokens) :] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def continued(model: torch.nn.Module, inputs: dict[str, Any], ends: set[int], outcome: Outcome) -> list[list[int]]:
    """New tokens per row of `inputs`, up to and with its end token; both phases are timed."""
    full, clock = generate_timed(model, inputs)
    new = [_up_to_end(row, ends) for row in full[:, inputs["input_ids"].shape[1] :].tolist()]
    outcome.prefill.batches.append((int(inputs["attention_mask"].sum()), clock.first - clock.start))
    decoded = sum(map(len, new)) - len(new)  # the first token comes out of the prefill
    if decoded:
        outcome.decode.batches.append((decoded, clock.last - clock.first))
    return new


def generate_timed(model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, Clock]:
    """What `generate` returns under the model's settings and the companion in charge, and when it made its tokens."""
    clock = Clock(inputs["input_ids"].device)
    full = model.generate(
        **inputs,
        stopping_criteria=StoppingCriteriaList([clock]),
        use_cache=True,
        **companions.settings(model, inputs),
    )
    return full, clock


def _up_to_end(tokens: list[int], ends: set[int]) -> list[int]:
    end = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: end + 1]


class Clock:
    """A stopping criterion that never stops anything: it is called after every token, so it knows the time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = self._now()
        self.first = self.last = None

    def _now(self) -> float:
        synchronise(self.device)
        return time.perf_counter()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.last = self._now()
        self.first = self.first or self.last
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def end_tokens(model: torch.nn.Module, tokenizer: Any) -> set[int]:
    """Every token that ends an answer: the checkpoint's and the tokenizer's."""
    found: set[int] = set()
    for source in (model.generation_config, model.config.get_text_config(decoder=True), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found.update([] if value is None else [value] if isinstance(value, int) else value)
    return found


@contextmanager
def greedy(
    model: torch.nn.Module, tokens: int, ends: set[int], pad: int, at_least: int | None = None
) -> Iterator[None]:
    """Greedy settings inside; `generate` would fill in the checkpoint's sampling and penalties otherwise."""
    before = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, min_new_tokens=at_least, eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
    )  # fmt: skip
    try:
        yield
    finally:
        model.generation_config = before
