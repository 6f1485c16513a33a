"""One cell of an lm-eval task: its requests through the patched model, its own filters and metrics per document."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

import attnpatch
from attnpatch.evaluation.lm_eval.columns import columns
from attnpatch.evaluation.lm_eval.extra import quiet
from attnpatch.evaluation.lm_eval.requests import Requests, jsonable
from attnpatch.evaluation.lm_eval.seeds import seeded
from attnpatch.evaluation.scoring import Outcome
from attnpatch.evaluation.tasks.base import Document

if TYPE_CHECKING:
    from attnpatch.evaluation.lm_eval.tasks import LmEvalTasks


class Ticker:
    """lm-eval reports every answer to its cache hook: here it moves the progress bar, and nothing is cached."""

    dbdict = None

    def __init__(self, requests: int, documents: int, advance: Callable[[int], None]) -> None:
        self.requests, self.documents, self.advance = requests, documents, advance
        self.answered = self.shown = 0

    def add_partial(self, attr: str, request: Any, answer: Any) -> None:
        self.answered += 1
        done = self.documents * self.answered // self.requests
        self.advance(done - self.shown)
        self.shown = done


def score(
    requests: Requests,
    tasks: LmEvalTasks,
    model: torch.nn.Module,
    documents: list[Document],
    batch_size: int,
    advance: Callable[[int], None],
) -> Outcome:
    """Answer every request and score it as lm-eval does.

    `batch_size` has been set to 1 already where the method's answers depend on it (see `Scoring`).
    """
    from attnpatch.evaluation.lm_eval.model import AttnPatchLM

    task = requests.task
    with quiet(), seeded(tasks.data_seed):  # the same draws for every method where a task samples
        lm = AttnPatchLM(
            model,
            patch=attnpatch.patches(model)[-1],
            tokenizer=tasks.tokenizer,
            batch_size=batch_size,
            max_length=tasks.longest,
            loglikelihood=tasks.settings.loglikelihood,
        )
        lm.silent = True
        _answer(lm, task, documents, advance)
        task.apply_filters()
        raw, records = _score(task, requests, documents)
    outcome = Outcome(records, lm.prefill, lm.decode)
    outcome.scores, outcome.values = columns(task, raw)
    return outcome


def _answer(lm, task, documents: list[Document], advance: Callable[[int], None]) -> None:
    by_type: dict[str, list[Any]] = {}
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [], {}  # what another method left
        by_type.setdefault(instance.request_type, []).extend([instance] * (instance.repeats or 1))
    lm.set_cache_hook(Ticker(sum(map(len, by_type.values())), len(documents), advance))
    for kind, asked in by_type.items():
        for instance, answer in zip(asked, getattr(lm, kind)(asked, disable_tqdm=True), strict=True):
            instance.resps.append(answer)


def _score(task, requests: Requests, documents: list[Document]) -> tuple[dict[tuple[str, str], list], list[dict]]:
    """`{(metric, filter): one value per document, None where it has none}`, and the records."""
    by_document: dict[int, list[Any]] = {}
    for instance in sorted(task.instances, key=lambda one: one.idx):
        by_document.setdefault(instance.doc_id, []).append(instance)
    filters = list(task.instances[0].filtered_resps)
    raw: dict[tuple[str, str], list] = {}
    records = []
    for place, ((doc_id, doc), document) in enumerate(zip(requests.docs, documents, strict=True)):
        own = by_document[doc_id]
        record = {
            "id": document.id,
            "prompt_hash": hashlib.sha256(str(own[0].args[0]).encode()).hexdigest(),
            "target": task.doc_to_target(doc),
            "answers": [one.resps for one in own],
        }
        for name in filters:
            answers = [one.filtered_resps[name] for one in own]
            found = task.process_results(doc, answers)
            record[f"scores ({name})"] = found
            for metric, value in found.items():
                raw.setdefault((metric, name), [None] * len(documents))[place] = value
        records.append(jsonable(record))
    return raw, records
