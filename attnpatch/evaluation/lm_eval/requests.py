"""The requests of one task: built once, hashed, and given to every method as they are."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from attnpatch.evaluation.cells import digest
from attnpatch.evaluation.errors import SkipCell, one_line
from attnpatch.evaluation.lm_eval.extra import quiet, require_consent
from attnpatch.evaluation.lm_eval.seeds import seeded, seeds
from attnpatch.evaluation.lm_eval.settings import LmEvalSettings
from attnpatch.evaluation.tasks.base import Document

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PROBE = 256  # tokens of a prompt that are kept, to compare the stock model before and after the run


@dataclass
class Requests:
    """One task's requests under one set of settings.

    task: lm-eval's object, with its instances built. documents: one per document, in order. hash: over everything
    that is asked and how it is scored. tokens: mean and longest prompt.
    """

    task: Any
    documents: list[Document]
    docs: list[tuple[int, Any]]
    hash: str
    tokens: dict[str, float]


def build(task, settings: LmEvalSettings, tokenizer, chat_template: bool, limit: int, data_seed: int) -> Requests:
    """Apply the settings to lm-eval's task and build its requests.

    Raises:
        SkipCell: the task runs generated code, needs images, or a chat template that the tokenizer does not have.
    """
    with seeded(data_seed), quiet():  # even a task's name is drawn from the global state in places
        name = task.task_name
        _refuse(task, name, chat_template, tokenizer)
        _configure(task, settings)
        task.set_fewshot_seed(seeds(data_seed)["fewshot_random_seed"])
        try:
            docs = list(task.doc_iterator(limit=limit))
            with contextlib.redirect_stderr(io.StringIO()):  # a bar of lm-eval's own
                task.build_all_requests(
                    limit=limit,
                    system_instruction=settings.system_instruction,
                    apply_chat_template=chat_template,
                    fewshot_as_multiturn=chat_template,
                    chat_template=_chat(tokenizer) if chat_template else None,
                )
            return _requests(task, docs, tokenizer)
        except Exception as error:  # a task's own code; the other tasks still run
            raise SkipCell(
                f"lm-eval task {name!r} cannot build its prompts: {one_line(error, 160)}", "look at the task's file"
            ) from error


def _refuse(task, name: str, chat_template: bool, tokenizer) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        require_consent(name)
    if getattr(task, "MULTIMODAL", False):
        raise SkipCell(f"lm-eval task {name!r} shows images or sound", "take a text task")
    if chat_template and not getattr(tokenizer, "chat_template", None):
        raise SkipCell("the tokenizer has no chat template", "leave --apply-chat-template out, or take a chat model")


def _configure(task, settings: LmEvalSettings) -> None:
    """As `lm_eval.simple_evaluate` does: a task that sets num_fewshot to 0 keeps it."""
    if settings.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
        given = settings.gen_kwargs
        if isinstance(given, str):
            from lm_eval.utils import simple_parse_args_string

            given = simple_parse_args_string(given)
        task.set_config(key="generation_kwargs", value=dict(given), update=True)
    default = task.get_config("num_fewshot")
    if settings.num_fewshot is not None and default != 0:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    elif default is None:
        task.set_config(key="num_fewshot", value=0)


def _chat(tokenizer):
    def template(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    return template


def _requests(task, docs: list[tuple[int, Any]], tokenizer) -> Requests:
    by_document: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    documents, asked, lengths = [], [], []
    for doc_id, doc in docs:
        own = sorted(by_document[doc_id], key=lambda instance: instance.idx)
        text = "".join(part for part in own[0].args if isinstance(part, str))
        ids = tokenizer.encode(text) or [0]
        lengths.append(len(ids))
        documents.append(Document(str(doc_id), tuple(ids[:_PROBE]), ()))
        asked.append([[one.request_type, one.args, one.repeats] for one in own] + [task.doc_to_target(doc)])
    config = {key: value for key, value in task.dump_config().items() if key != "metadata"}
    tokens = {"mean": round(fmean(lengths), 1), "longest": max(lengths)}
    return Requests(task, documents, docs, digest(jsonable([asked, config])), tokens)


def jsonable(value: Any) -> Any:
    """The same structure in JSON types; functions as their source, objects as text without addresses."""
    from lm_eval.utils import handle_non_serializable

    def plain(item: Any) -> Any:
        if isinstance(item, (set, frozenset)):
            return sorted(map(str, item))  # their own order changes from process to process
        found = handle_non_serializable(item)
        return _ADDRESS.sub("", found) if isinstance(found, str) else found

    # NaN has no JSON; text keeps the difference in a hash.
    return json.loads(json.dumps(value, default=plain), parse_constant=str)
