"""Prompts with images for every vision-language family, alone and in batches."""

from __future__ import annotations

import inspect

import pytest
import torch

from tests import zoo

FAMILIES = [family for family in zoo.VLM_CONFIGS if family != "mllama"]
IMAGE = zoo.IMAGE


def needs_encoded_images(model) -> None:
    """Skips the test where `generate` does not encode images before it runs the prompt."""
    if "mm_encoder_outputs" not in inspect.signature(type(model).forward).parameters:
        pytest.skip(
            "this transformers takes no encoded images (mm_encoder_outputs): it encodes them with the prompt, and "
            "drops them where the prompt comes in pieces"
        )


def batch(family: str, side: str = "left", *, text_row: bool = False) -> tuple[dict, list[dict]]:
    """Two prompts of different length (and one without image) as one padded batch, and each alone."""
    one, two = zoo.image_prompt(family), zoo.image_prompt(family)
    torch.manual_seed(7)
    two["pixel_values"] = torch.randn_like(two["pixel_values"])
    extra = torch.tensor([[11, 12, 13, 14, 15]])
    two["input_ids"] = torch.cat([two["input_ids"], extra], 1)
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in two:
            two[name] = torch.nn.functional.pad(two[name], (0, 5))
    two["attention_mask"] = torch.ones_like(two["input_ids"])
    rows = [one, two]
    if text_row:
        ids = torch.tensor([[1, 21, 22, 23, 24, 25, 26]])
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        text |= {name: torch.zeros_like(ids) for name in ("token_type_ids", "mm_token_type_ids") if name in one}
        rows.append(text)
    length = max(row["input_ids"].shape[1] for row in rows)
    padded: dict[str, torch.Tensor] = {}
    for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in one:
            padded[name] = torch.cat([_pad(row[name], length, side) for row in rows])
    for name, value in one.items():
        if name not in padded:
            padded[name] = torch.cat([value, two[name]])
    if text_row and padded["pixel_values"].ndim == 5:  # pictures by prompt, padded with black ones: Idefics3
        padded["pixel_values"] = torch.cat([padded["pixel_values"], torch.zeros_like(one["pixel_values"])])
    return padded, rows


def _pad(values: torch.Tensor, length: int, side: str) -> torch.Tensor:
    missing = length - values.shape[1]
    return torch.nn.functional.pad(values, (missing, 0) if side == "left" else (0, missing))
