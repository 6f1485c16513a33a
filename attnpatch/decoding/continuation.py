"""Prompts and what is written behind them, one token at a time over a cache, as `generate` runs a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel


def prepare(model: PreTrainedModel, inputs: Mapping[str, Any], copies: int = 1) -> tuple[torch.Tensor, dict[str, Any]]:
    """The tokens `[B * copies, T]` and the arguments that `generate` would start with for `inputs`.

    Positions, masks, the cache and encoded images come from `generate` itself, which knows each model's ways. `inputs`
    hold an attention_mask, so the padding token that is named here is never looked for.
    """

    def taken(model: PreTrainedModel, input_ids: torch.Tensor, **prepared: Any) -> tuple[torch.Tensor, dict]:
        for name in ("logits_processor", "stopping_criteria", "generation_config"):
            del prepared[name]
        return input_ids, prepared

    return model.generate(
        **inputs,
        custom_generate=taken,
        do_sample=True,  # several copies of a prompt are asked for by sampling only
        num_return_sequences=copies,
        num_beams=1,
        max_new_tokens=1,
        min_new_tokens=None,
        use_cache=True,
        cache_implementation="dynamic",
        pad_token_id=0,
    )


class Continuation:
    """A batch of prompts that is continued with tokens chosen by somebody else.

    arguments: what `generate` prepared for its decoding loop, as `prepare` or a custom loop gets it. Masks, positions
    and token types in it are as long as the sequence: they grow with a token that is fed, not before.
    """

    def __init__(self, model: PreTrainedModel, input_ids: torch.Tensor, arguments: dict[str, Any]) -> None:
        self.model = model
        self.input_ids = input_ids
        self.arguments = arguments
        self._outputs: Any = None  # of the last step: what the arguments of the next one are made from

    @property
    def cache(self) -> Any:
        """The keys and values so far, once the prompt has been run."""
        return self.arguments["past_key_values"]

    def prompt(self) -> torch.Tensor:
        """Run the prompts; the logits of what follows, `[B, V]` fp32."""
        return self._run(is_first_iteration=True)

    def feed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Run the tokens `[B]` that were chosen; the logits of what follows, `[B, V]` fp32."""
        self.input_ids = torch.cat([self.input_ids, tokens[:, None]], 1)
        self.arguments = self.model._update_model_kwargs_for_generation(self._outputs, self.arguments)
        self._outputs = None
        return self._run(next_sequence_length=1)

    def whole(self) -> torch.Tensor:
        """Run everything so far once more, without the cache; the logits of what follows, `[B, V]` fp32."""
        uncached = {**self.arguments, "past_key_values": None, "use_cache": False}
        given = self.model.prepare_inputs_for_generation(self.input_ids, is_first_iteration=True, **uncached)
        return self.model(**given, return_dict=True).logits[:, -1].float()

    def reorder(self, rows: torch.Tensor) -> None:
        """Row i goes on from what row `rows[i]` has been so far."""
        self.input_ids = self.input_ids[rows]
        self.cache.reorder_cache(rows)

    def _run(self, **step: Any) -> torch.Tensor:
        given = self.model.prepare_inputs_for_generation(self.input_ids, **step, **self.arguments)
        self._outputs = self.model(**given, return_dict=True)
        return self._outputs.logits[:, -1].float()
