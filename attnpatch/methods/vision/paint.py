"""paint: image tokens that the vision tower's class token attends to score higher while the answer is generated.

Source: "Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large Vision-Language Model", arXiv
2501.12206. Its optional guidance of the logits is `attnpatch.decoding.ImageGuidance`. The abstract's "head-specific
modulation" is not in the authors' code, which raises every head alike: here it is the option `head_scale`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field, Strict

from attnpatch.methods.vision.base import VisionConfig, VisionMethod, answer_rows, boost
from attnpatch.methods.vision.depth import Layers
from attnpatch.patching.columns import Columns
from attnpatch.patching.edits import Change, RowsAt
from attnpatch.patching.errors import UnsupportedCallError, UnsupportedModelError
from attnpatch.patching.layers import select_layers
from attnpatch.patching.method import register
from attnpatch.patching.tower import TowerRead

if TYPE_CHECKING:
    from attnpatch.patching.calls import Call
    from attnpatch.patching.forward import Forward

Factor = Annotated[float, Field(ge=0)]


class PAINTConfig(VisionConfig):
    alpha: float = Field(0.7, ge=0, description="boost of local tokens: a score grows by alpha times its size")
    beta: float = Field(0.3, ge=0, description="boost of summary tokens: a score grows by beta times its size")
    top_ratio: float = Field(
        0.25, ge=0, le=1, description="share of a picture's tokens that are local: the class token's favourites"
    )
    spatial_ratio: float = Field(
        0.0, ge=0, le=1, description="share of tokens that count as local too, by what they receive from other patches"
    )
    layers: Layers = Field(
        "2:", description="layers of the language model that are changed, such as '2:' (end excluded) or indices"
    )
    vit_layers: Annotated[tuple[int, int], Strict(False)] = Field(
        (0, -2), description="layers of the vision tower that local and summary tokens are chosen by"
    )
    no_cls: Literal["error", "received"] = Field(
        "error",
        description="a vision tower without class token (SigLIP, Qwen): refuse it, or go by the attention that "
        "patches receive from one another",
    )
    head_scale: Annotated[tuple[Factor, ...], Strict(False)] | None = Field(
        None, description="one factor per query head that multiplies both boosts. Default: 1 for every head"
    )


class Chosen(NamedTuple):
    """Which tokens of a picture are raised, bool `[tokens]` each; none is both."""

    local: torch.Tensor
    summary: torch.Tensor


@register("paint")
class PAINT(VisionMethod):
    """e_j + a |e_j| before the softmax, where an answer is predicted: a = alpha for local, beta for summary tokens."""

    Config = PAINTConfig
    summary = "raises the scores of the image tokens that the vision tower itself attends to"
    paper = "Fixing Imbalanced Attention to Mitigate In-Context Hallucination of LVLMs, arXiv 2501.12206"
    neutral = "alpha = beta = 0"
    limits = (
        "chosen once per picture (or tile; per prompt in Idefics3 and SmolVLM), by the tower alone; text degenerates "
        "where alpha is a little too high"
    )
    evidence = (
        "runs on every family with image tokens. The authors' numbers are for LLaVA-1.5 and the options of their code "
        "are partly ignored there; nobody has reproduced them, and answers lengthen where hallucination falls"
    )
    neutral_options = {"alpha": 0.0, "beta": 0.0, "layers": "0:", "no_cls": "received"}
    example_options = {"alpha": 0.7, "beta": 0.3}
    small_options = (
        {"layers": "0:", "no_cls": "received"},
        {"layers": (0,), "no_cls": "received", "top_ratio": 0.5, "spatial_ratio": 0.6, "alpha": 1.0},
    )
    reads_whole_prompt = True

    @property
    def tower_reads(self):
        local, summary = self.config.vit_layers
        what = "cls" if self.config.no_cls == "error" else "either"
        reads = {TowerRead(local, what), TowerRead(summary, what)}
        return reads | {TowerRead(local, "received")} if self.config.spatial_ratio else reads

    def check(self, site):
        if not select_layers(self.config.layers, site.layers)(site.layer):
            return f"not one of the layers that are changed ({self.config.layers})"
        return super().check(site)

    def prepare(self, sites, model):
        super().prepare(sites, model)
        scale = self.config.head_scale
        other = [site for site in sites if scale is not None and site.heads not in (None, len(scale))]
        if other:
            raise UnsupportedModelError(
                f"option head_scale has {len(scale)} factors, but layer {other[0].layer} has {other[0].heads} query "
                "heads: give one factor per head."
            )

    def begin(self, forward):
        tower, config = forward.given.tower, self.config
        if not config.alpha and not config.beta:
            return
        local, summary = config.vit_layers
        what = "cls" if config.no_cls == "error" else "either"
        found = [tower.entries[TowerRead(local, what)], tower.entries[TowerRead(summary, what)]]
        found.append(tower.entries[TowerRead(local, "received")] if config.spatial_ratio else [None] * len(found[0]))
        chosen = [choose(*one, config.top_ratio, config.spatial_ratio) for one in zip(*found, strict=True)]
        factors = [config.alpha * one.local.float() + config.beta * one.summary.float() for one in chosen]
        placed = tower.placed(factors, forward.images.mask)[:, None, None]
        if config.head_scale is not None:
            placed = placed * torch.tensor(config.head_scale, device=placed.device).view(1, -1, 1, 1)
        forward.state[self, "factors"] = Columns(placed)

    def attend(self, call, inner):
        if self.config.alpha or self.config.beta:
            self.edit_rows(call, answer_rows, self._raised, before_softmax=True)
        return inner(call)

    def _raised(self, call: Call) -> Change:
        known, mask = self._factors(call.forward), call.images.mask
        if mask.shape[1] > known.length and bool(mask[:, known.length :].any()):
            raise UnsupportedCallError(
                "an image came after the first prompt of this cache, and paint chooses its tokens where a prompt "
                "begins. Run the whole conversation as one prompt, with a new cache."
            )

        def raised(scores: torch.Tensor, at: RowsAt) -> tuple[torch.Tensor, None]:
            factors = at.of(known.at(at.key_first, scores.shape[-1]))
            return boost(scores, factors, scores.abs(), at), None

        return raised

    def _factors(self, forward: Forward) -> Columns:
        """How much the scores of a prompt's T tokens are raised, `[B, 1 or H, 1, T]` for the rows of `forward`."""
        key = (self, "factors")
        if key not in forward.state and forward.whole is None:
            raise UnsupportedCallError(
                "paint chooses its tokens where a prompt begins, and was not there when this cache was filled. Apply "
                "it before the prompt, with a new cache."
            )
        if key not in forward.state:  # some rows of the batch
            forward.state[key] = Columns(self._factors(forward.whole).values[list(forward.rows)])
        return forward.state[key]


def choose(
    local: torch.Tensor, summary: torch.Tensor, spatial: torch.Tensor | None, top_ratio: float, spatial_ratio: float
) -> Chosen:
    """Local and summary tokens of one picture, by scores `[tokens]`; tokens without one (NaN) are neither.

    local: the highest `top_ratio` of them, by `local`, and the highest `spatial_ratio` by `spatial`; summary: the
    outliers of `summary`, above the third quartile by more than 1.5 times the distance between the quartiles.
    """
    low, high = summary.nanquantile(torch.tensor([0.25, 0.75], dtype=summary.dtype, device=summary.device))
    outliers = summary > high + 1.5 * (high - low)  # False for NaN
    marked = highest(local, top_ratio)
    if spatial is not None:
        marked |= highest(spatial, spatial_ratio)
    return Chosen(marked & ~outliers, outliers)


def highest(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    """Where the highest ceil(ratio * P) of the P scores `[tokens]` that are not NaN are; of equals, the first."""
    count = math.ceil(ratio * int((~scores.isnan()).sum()))
    order = scores.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
    marked = torch.zeros_like(scores, dtype=torch.bool)
    marked[order[:count]] = True
    return marked
