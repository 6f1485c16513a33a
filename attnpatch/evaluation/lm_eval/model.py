"""AttnPatchLM: lm-eval's Hugging Face model with a method in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from transformers import LogitsProcessorList

import attnpatch
from attnpatch.evaluation.lm_eval.clock import Clock
from attnpatch.evaluation.lm_eval.extra import INSTALL
from attnpatch.evaluation.lm_eval.settings import CONTEXT, Scoring, scoring
from attnpatch.evaluation.speed import Meter
from attnpatch.patching.errors import AttnPatchError, did_you_mean
from attnpatch.patching.method import Method, build_config, method_class
from attnpatch.patching.patch import Patch

try:
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    raise ImportError(f"lm-eval with its Hugging Face models is not installed. Install it with: {INSTALL}") from error

LOGLIKELIHOOD = ("auto", "context", "whole")
OVERFLOW = ("error", "truncate")


class AttnPatchLM(HFLM):
    """An `HFLM` whose model is patched for as long as the object lives.

    Args:
        pretrained: Hub id, folder, or a model in memory.
        method: a registered method; "stock" changes nothing and counts.
        method_args: its options, as a mapping or as text with semicolons (commas separate lm-eval's own arguments):
            `"window=1024;seed=0"`.
        layers: which layers, as in `attnpatch.apply`; as text with semicolons: `"0;4:8;-1"`.
        loglikelihood: what scored continuations are decided on: "context", "whole" or "auto"; see `Scoring`. In
            `get_model_info()`, and so in lm-eval's results file.
        overflow: "error" where a prompt and what is scored or generated behind it are longer than `max_length`;
            "truncate" cuts the prompt from the left as `HFLM` does, which can cut the answer out of it.
        patch: a patch that is in `pretrained` already, instead of method, method_args and layers.
        options: those of `HFLM`. batch_size is 1 unless given. Methods that read the whole prompt or depend on its
            length never see padding here: only requests of equal length share a batch.

    Raises:
        AttnPatchError: an unknown method, option or value; before any weights are loaded.
    """

    silent = False  # True: none of lm-eval's own progress bars

    def __init__(
        self,
        pretrained,
        method: str = "stock",
        method_args: str | Mapping[str, Any] | None = None,
        layers: str | int | list | None = None,
        loglikelihood: str = "auto",
        overflow: str = "error",
        patch: Patch | None = None,
        **options: Any,
    ) -> None:
        _one_of("loglikelihood", loglikelihood, LOGLIKELIHOOD)
        _one_of("overflow", overflow, OVERFLOW)
        built = [_build(method, method_args)] if patch is None else patch.methods
        self.overflow = overflow
        self.scoring: Scoring = scoring(built, loglikelihood)
        batch_size = options.pop("batch_size", None) or 1
        if not self.scoring.padding and str(batch_size).startswith("auto"):
            names = " + ".join(one.name for one in built)
            raise AttnPatchError(
                f"batch_size={batch_size!r} is not possible with {names}: its answers depend on the batch, and the "
                "search would draw from its seeds. Give a number; 1 is what results should be reported with."
            )
        self.prefill, self.decode = Meter(), Meter()
        super().__init__(pretrained=pretrained, batch_size=batch_size, **options)
        if patch is None:
            chosen = layers.replace(";", ",") if isinstance(layers, str) else layers
            patch = attnpatch.apply(self.model, built[0], layers=chosen)
        self.patch = patch

    def describe(self) -> dict[str, Any]:
        """Method, scoring and the patch's report, as JSON types."""
        report = self.patch.report().to_dict()
        return {
            "methods": report["methods"],
            "loglikelihood": self.scoring.loglikelihood,
            "batch_size": self.batch_size,
            "report": report,
        }

    def get_model_info(self) -> dict[str, Any]:
        """lm-eval's model info with `describe()` under "attnpatch". Raises RuntimeError if the patch never ran."""
        if not self.patch.report().calls:
            raise RuntimeError("the patch was never called, so these would be stock numbers; this is a bug, report it")
        return {**super().get_model_info(), "attnpatch": self.describe()}

    def set_cache_hook(self, cache_hook) -> None:
        """Refuse lm-eval's answer cache: its key holds neither model nor method, so methods would share answers."""
        if cache_hook.dbdict is not None:
            raise AttnPatchError(
                "use_cache is not possible with patched models: lm-eval's cache does not know which method gave an "
                "answer. Leave --use_cache out; attnpatch-eval keeps finished cells by itself."
            )
        super().set_cache_hook(cache_hook)

    def tok_batch_encode(self, strings, padding_side="left", left_truncate_len=None, truncation=False):
        """As `HFLM`, but a prompt that would lose its beginning is an error (see `overflow`)."""
        if self.overflow == "error":
            ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
            if left_truncate_len is not None:
                self._require_fit(ids.shape[1], self.max_length - left_truncate_len, "to generate")
            return ids, mask
        return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        """As `HFLM`, in groups where the prompt's end has to be declared or padding has to be kept out."""
        groups: dict[int | None, list[int]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            # The last token of a continuation is predicted, not read.
            self._require_fit(len(context), len(continuation) - 1, "to score")
            groups.setdefault(self._group(len(context), len(continuation)), []).append(index)
        answers: list[tuple[float, bool] | None] = [None] * len(requests)
        silent = disable_tqdm or self.silent or len(groups) > 1  # one bar per group would be many
        for key in sorted(groups, reverse=True, key=lambda length: length or 0):
            declared = self.patch.prompt(key) if self.scoring.loglikelihood == CONTEXT else nullcontext()
            with declared:
                rows = [requests[index] for index in groups[key]]
                found = super()._loglikelihood_tokens(rows, silent, override_bs)
            for index, answer in zip(groups[key], found, strict=True):
                answers[index] = answer
        return answers

    def _group(self, context: int, continuation: int) -> int | None:
        """What requests of one batch must have in common: the prompt's length, the input's, or nothing."""
        length = min(context + continuation - 1, self.max_length)
        if self.scoring.loglikelihood == CONTEXT:
            return length - (continuation - 1)
        return None if self.scoring.padding else length

    def _require_fit(self, prompt: int, behind: int, purpose: str) -> None:
        if self.overflow == "error" and prompt + behind > self.max_length:
            raise AttnPatchError(
                f"a prompt of {prompt} tokens and {behind} {purpose} are more than max_length={self.max_length}, and "
                "cutting the prompt from the left could cut the answer out. Take a model or max_length that holds "
                "them, fewer few-shot examples, or overflow='truncate' (lm-eval's own behaviour)."
            )

    def _detect_batch_size(self, requests=None, pos=0):
        with self.patch.disabled():  # trial runs do not belong into the measured budget
            return super()._detect_batch_size(requests, pos)

    def _model_call(self, inps, attn_mask=None, labels=None):
        # Padding is a tail of zeros: count up to the last token that is not.
        real = int((inps != 0).flip(-1).cumsum(-1).clamp(max=1).sum())
        with self.prefill.measure(real, inps.device):
            return super()._model_call(inps, attn_mask, labels)

    def _model_generate(self, context, max_length, stop, **options):
        mask = options.get("attention_mask")
        clock = Clock(context.device)
        clock.start()
        output = super()._model_generate(
            context, max_length, stop, logits_processor=LogitsProcessorList([clock]), **options
        )
        prompt = context.numel() if mask is None else int(mask.sum())
        generated = output[:, context.shape[1] + 1 :]  # the first token comes out of the prompt's forward
        decoded = int((generated != self.tokenizer.pad_token_id).sum())
        clock.stop(self.prefill, prompt, self.decode, decoded)
        return output


def _build(name: str, options: str | Mapping[str, Any] | None) -> Method:
    method_type = method_class(name)
    if options is None or isinstance(options, Mapping):
        return method_type(build_config(method_type, dict(options or {})))
    return method_type(build_config(method_type, parse_options(options), from_text=True))


def parse_options(text: str) -> dict[str, str]:
    """`"window=1024;seed=0"` as a dict of strings.

    Raises:
        AttnPatchError: a part without a name or an equals sign.
    """
    found = {}
    for part in filter(None, (part.strip() for part in str(text).split(";"))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise AttnPatchError(f"cannot read {part!r} in method_args={text!r}; write window=1024;seed=0.")
        found[name.strip()] = value.strip()
    return found


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise AttnPatchError(f"{name}={value!r} is not known.{did_you_mean(value, allowed)} Allowed: {allowed}.")
