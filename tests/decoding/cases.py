"""What the tests of companions share: families, and what a model says step by step along given tokens."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from tests import zoo

FAMILIES = ["llava", "qwen2_5_vl", "gemma3", "paligemma", "idefics3"]
STEPS = {"max_new_tokens": 4, "min_new_tokens": 4, "suppress_tokens": [zoo.IMAGE, zoo.VIDEO], "do_sample": False}
FULL = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}


class Forced(LogitsProcessor):
    """Chooses the given tokens, whatever the model says."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens, self.step = tokens, 0

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[self.step]] = 0
        self.step += 1
        return forced


def logits_along(model, row: dict, tokens: torch.Tensor) -> torch.Tensor:
    """The model's own logits `[steps, V]` behind one prompt, while it is made to write `tokens`."""
    forced = LogitsProcessorList([Forced(tokens)])
    given = {"max_new_tokens": len(tokens), "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return torch.cat(model.generate(**row, **given, logits_processor=forced).logits)


def text_of(row: dict) -> dict[str, torch.Tensor]:
    """One prompt without its image: the tokens that are no image token, and no token around it (102)."""
    kept = (row["input_ids"][0] != zoo.IMAGE) & (row["input_ids"][0] != 102)
    ids = row["input_ids"][:, kept]
    zeros = {name: torch.zeros_like(ids) for name in ("token_type_ids", "mm_token_type_ids") if name in row}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **zeros}


def written(out, inputs: dict) -> torch.Tensor:
    """The new tokens `[B, steps]` of what generate returned."""
    return out.sequences[:, inputs["input_ids"].shape[1] :]
