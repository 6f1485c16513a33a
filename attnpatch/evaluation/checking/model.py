"""The model of a run: is it here, is it long enough, can it be patched. Its weights are not read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedModel

from attnpatch.bench.models import skeleton
from attnpatch.evaluation import tasks
from attnpatch.evaluation.checking.finding import MISSING, OK, UNKNOWN, Finding
from attnpatch.evaluation.errors import LoadingError
from attnpatch.evaluation.loading import CheckpointSource, ModelRequest, is_local
from attnpatch.evaluation.suites import Suite
from attnpatch.patching import AttnPatchError, Site, inspect_model
from attnpatch.patching.sites import TextModel

PART = "model"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass
class Model:
    """What was found out about it.

    source: None if it cannot be read; bare: its modules without weights, and text: the text model in it, both None if
    it cannot be patched.
    """

    findings: list[Finding]
    source: CheckpointSource | None = None
    bare: PreTrainedModel | None = None
    text: TextModel | None = None
    parameters: int | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """Its layers that can be patched."""
        return () if self.text is None else self.text.sites

    @property
    def longest(self) -> int | None:
        """Its positions."""
        if self.source is None:
            return None
        return getattr(self.source.config.get_text_config(decoder=True), "max_position_embeddings", None)


def check_model(request: ModelRequest, suite: Suite) -> Model:
    """Look at everything that shows without weights.

    Raises:
        UsageError: an unknown dtype or sandbox model.
    """
    hub = not is_local(request.model)
    cached = not hub or _cached(request, "config.json") is not None
    try:
        source = CheckpointSource(request)
    except LoadingError as error:
        found = str(error) if cached else "its config is not in the local Hugging Face cache"
        return Model([Finding(PART, request.model, MISSING, found, _download(request) if hub else "")])
    model = Model([Finding(PART, request.model, OK, f"config and tokenizer of {_kind(source)}")], source)
    if hub:
        model.findings.append(_weights(request))
    model.findings += [*_lengths(model, suite), *_template(source, suite)]
    try:
        bare = skeleton(source.config, trust_remote_code=request.trust_remote_code)
        text = inspect_model(bare)
    except (AttnPatchError, TypeError) as error:
        model.findings.append(Finding(PART, "attention", MISSING, str(error), "take a model that `inspect` accepts"))
        return model
    model.bare, model.text, model.parameters = bare, text, sum(one.numel() for one in bare.parameters())
    left = f"; {len(text.skipped)} more are left alone" if text.skipped else ""
    model.findings.append(Finding(PART, "attention", OK, f"{len(text.sites)} layers can be patched{left}"))
    return model


def check_access(request: ModelRequest) -> list[Finding]:
    """Whether the repository is gated, which only the Hub can tell; nothing for a local model."""
    from huggingface_hub import constants, get_token, model_info

    if is_local(request.model):
        return []
    if constants.HF_HUB_OFFLINE:
        return [
            Finding(PART, "access", UNKNOWN, "whether it is gated shows on the Hub only, and HF_HUB_OFFLINE is set")
        ]
    try:
        info = model_info(request.model, revision=request.revision, timeout=5)
    except Exception as error:  # noqa: BLE001 - a dozen types; the model may still be in the cache
        found = " ".join(str(error).split())[:120]
        return [Finding(PART, "access", UNKNOWN, f"the Hub does not answer for it: {found}")]
    if not info.gated:
        return [Finding(PART, "access", OK, "not gated")]
    if get_token():
        return [
            Finding(PART, "access", UNKNOWN, "gated; you are logged in, the Hub knows whether you accepted its terms")
        ]
    fix = f"accept its terms on https://huggingface.co/{request.model}, then `hf auth login`"
    return [Finding(PART, "access", MISSING, "gated, and you are not logged in", fix)]


def _kind(source: CheckpointSource) -> str:
    names = getattr(source.config, "architectures", None) or [type(source.config).__name__]
    return names[0]


def _cached(request: ModelRequest, name: str) -> str | None:
    found = try_to_load_from_cache(request.model, name, revision=request.revision)
    return found if isinstance(found, str) else None


def _download(request: ModelRequest) -> str:
    revision = f" --revision {request.revision}" if request.revision else ""
    return f"`hf download {request.model}{revision}`; `run` does it too where there is a network"


def _weights(request: ModelRequest) -> Finding:
    if _cached(request, WEIGHTS):
        return Finding(PART, "weights", OK, "in the cache")
    index = _cached(request, INDEX)
    if index is None:
        return Finding(PART, "weights", MISSING, "not in the local Hugging Face cache", _download(request))
    names = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    absent = [name for name in names if _cached(request, name) is None]
    if absent:
        found = f"{len(absent)} of {len(names)} files are not in the local Hugging Face cache"
        return Finding(PART, "weights", MISSING, found, _download(request))
    return Finding(PART, "weights", OK, f"in the cache, {len(names)} files")


def _lengths(model: Model, suite: Suite) -> Iterator[Finding]:
    longest = model.longest
    if all(tasks.own_length(choice.name) for choice in suite.tasks):
        return  # their documents are as long as they are
    if longest is None:
        yield Finding(PART, "positions", UNKNOWN, "its config does not say how many it has")
        return
    over = [length for length in suite.lengths if length > longest]
    if over:
        told = ", ".join(map(str, over))
        fix = f"take --lengths up to {longest}, or a checkpoint whose config scales its positions"
        yield Finding(PART, "positions", MISSING, f"{longest}, fewer than the lengths {told}", fix)
    else:
        yield Finding(PART, "positions", OK, f"{longest}, enough for all lengths")


def _template(source: CheckpointSource, suite: Suite) -> Iterator[Finding]:
    if suite.chat_template:
        there = bool(getattr(source.tokenizer, "chat_template", None))
        found = "the tokenizer has one" if there else "the tokenizer has none"
        fix = "" if there else "leave --apply-chat-template out, or take an instruction-tuned model"
        yield Finding(PART, "chat template", OK if there else MISSING, found, fix)
