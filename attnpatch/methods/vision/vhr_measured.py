"""How far the heads of a model move when the image is taken away: measured, to look at or to choose layers by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from attnpatch.methods.vision.heads import head_divergence, total_divergence
from attnpatch.methods.vision.vhr import VHR, VHRConfig, paper_layers
from attnpatch.patching import apply
from attnpatch.patching.errors import AttnPatchError

if TYPE_CHECKING:
    from torch import nn


class _Measured(VHR):
    """vhr that changes nothing and keeps what it sees."""

    Config = VHRConfig

    def __init__(self, **options: Any) -> None:
        super().__init__(alpha=1.0, layers="all", **options)
        self.seen: dict[int, torch.Tensor] = {}

    def heads(self, call, image, text):
        self.seen[call.layer] = head_divergence(image, text).cpu()
        return super().heads(call, image, text)


def divergences(model: nn.Module, inputs: dict[str, Any], **options: Any) -> dict[int, torch.Tensor]:
    """VHD `[R, H]` by layer, at the last token of the R prompts of a batch that have an image, in their order.

    model: a vision-language model; patches that it has stay in force. inputs: as the processor makes them; options:
    further ones of vhr, such as drop_wrappers. Raises UnsupportedCallError where no prompt has an image.
    """
    method = _Measured(**options)
    with apply(model, method), torch.no_grad():
        model(**{**inputs, "use_cache": False})
    return method.seen


def best_layers(model: nn.Module, batches: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The option `layers` of vhr for `model`: layer 1, and as many as the paper's share of those that diverge most.

    A layer is ranked by its part of T-VHD: the sum over its upper half of heads (the paper does not say how many),
    averaged over the prompts. Under "details" it is given for every layer, as "t_vhd" beside "layers", with the
    number of "prompts" and of the heads summed, "top".
    """
    parts: dict[int, list[torch.Tensor]] = {}
    top = 0
    for inputs in batches:
        for layer, seen in divergences(model, inputs).items():
            top = (seen.shape[1] + 1) // 2
            parts.setdefault(layer, []).append(total_divergence(seen, top))
    if not parts:
        raise AttnPatchError("vhr is calibrated on prompts with images, and none was given; give a handful of images.")
    means = {layer: float(torch.cat(values).mean()) for layer, values in sorted(parts.items())}
    always, *others = paper_layers(max(means) + 1)
    ranked = sorted(set(means) - {always}, key=lambda layer: -means[layer])
    prompts = sum(len(values) for values in next(iter(parts.values())))
    return {
        "layers": sorted([always, *ranked[: len(others)]]),
        "details": {"layers": list(means), "t_vhd": list(means.values()), "prompts": prompts, "top": top},
    }
