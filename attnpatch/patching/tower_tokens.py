"""From the patches of the vision tower to the image tokens of the prompt: merged, reordered, packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnpatch.patching.errors import UnsupportedCallError

if TYPE_CHECKING:
    from attnpatch.patching.tower import TowerRead

# How the model types make tokens of patches. "square": each picture is a square of patches, of which blocks of m x m
# become a token (m is 1 in LLaVA and PaliGemma). "grid": pictures of any shape, one behind another, where neighbours
# that are merged already stand together. "crops": a picture in crops, which the model packs itself.
MERGES = {
    "llava": "square",
    "vipllava": "square",
    "paligemma": "square",
    "gemma3": "square",
    "internvl": "square",
    "idefics3": "square",
    "smolvlm": "square",
    "qwen2_vl": "grid",
    "qwen2_5_vl": "grid",
    "qwen3_vl": "grid",
    "llava_next": "crops",
    "llava_onevision": "crops",
}


@dataclass(frozen=True)
class TowerScores:
    """What was read of the tower while some images were encoded.

    entries: for each reading one tensor `[tokens]` per encoded picture, in the order of the image tokens; NaN at
    tokens that stand for no patch (line ends). counts: tokens of each picture. Idefics3 and SmolVLM hand out all
    pictures of a prompt as one.
    """

    reads: frozenset[TowerRead]
    entries: dict[TowerRead, list[torch.Tensor]]
    counts: list[int]

    def placed(self, values: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """`values` (one `[tokens]` per picture) where the image tokens stand, `[B, T]` for `mask` `[B, T]`; else 0.

        A batch in which every prompt stands several times in a row (beams, num_return_sequences) gets them as often.
        Raises UnsupportedCallError if these are not the images of this prompt.
        """
        total, found = sum(self.counts), int(mask.sum())
        times, rest = divmod(found, max(total, 1))
        ours = not rest and times and not mask.shape[0] % times
        if not ours or not torch.equal(mask[::times].repeat_interleave(times, 0), mask):
            raise UnsupportedCallError(
                f"the prompt has {found} image tokens, but the vision tower encoded images of {total}. Give each "
                "image together with its own prompt; videos are not supported."
            )
        flat = torch.cat(values).to(mask.device)
        first = mask[::times]
        placed = torch.zeros(first.shape, dtype=flat.dtype, device=mask.device).masked_scatter(first, flat)
        return placed.repeat_interleave(times, 0)


def by_entry(host: nn.Module, found: torch.Tensor, counts: list[int], given: dict[str, Any]) -> list[torch.Tensor]:
    """`found` per patch as one tensor `[tokens]` per encoded picture.

    found: `[N, patches]`, or `[patches]` where pictures lie one behind another. counts: tokens of each picture. given:
    what the images were encoded from. Raises UnsupportedCallError if they do not fit together.
    """
    if MERGES[host.config.model_type] == "grid":
        tokens = _merged_grid(host, found, given["image_grid_thw"])
    else:
        tokens = _merged_squares(found, sum(counts))
    if tokens is None or len(tokens) != sum(counts):
        raise UnsupportedCallError(
            f"{sum(counts)} image tokens of {type(host).__name__} cannot be told apart by patches: the vision tower "
            f"has {list(found.shape)} of them, which is no square of blocks per token."
        )
    return list(tokens.split(counts))


def _merged_squares(found: torch.Tensor, total: int) -> torch.Tensor | None:
    """Tokens `[total]` of square pictures `[N, P]`; None if they do not fit."""
    pictures, patches = found.shape
    each, rest = divmod(total, pictures)
    if not rest and each == patches + 1:  # the class token is kept as a token
        return torch.nn.functional.pad(found, (1, 0), value=torch.nan).flatten()
    side, tokens = round(patches**0.5), round(each**0.5)
    if rest or side * side != patches or tokens * tokens != each or side % tokens:
        return found.flatten() if not rest and each == patches else None
    square = found.reshape(pictures, 1, side, side)
    return torch.nn.functional.avg_pool2d(square, side // tokens).flatten()


def _merged_grid(host: nn.Module, found: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Tokens of the Qwen towers: patches of one token are neighbours; windows have reordered the tokens."""
    vision = host.config.vision_config
    tokens = found.unflatten(0, (-1, vision.spatial_merge_size**2)).mean(1)
    if getattr(vision, "window_size", None) is None:
        return tokens
    from transformers.vision_utils import get_vision_window_index

    order, _ = get_vision_window_index(
        grid,
        spatial_merge_size=vision.spatial_merge_size,
        window_size=vision.window_size,
        patch_size=vision.patch_size,
    )
    return tokens[torch.argsort(order).to(tokens.device)]
