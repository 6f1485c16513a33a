"""var: image tokens that soak up attention give a share of it to the other image tokens.

Source: "See What You Are Told: Visual Attention Sink in Large Multimodal Models", ICLR 2025, arXiv 2503.03321, and its
released code, seilk/VisAttnSink. Options follow the paper; `attnpatch show var` says what the code calls them. The
code also keeps what it found in the first image for all later prompts; here it lives and dies with the cache.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from attnpatch.methods.vision.base import Integers, VisionConfig, VisionMethod, generated_rows
from attnpatch.methods.vision.depth import Layers
from attnpatch.methods.vision.known import known_options
from attnpatch.methods.vision.massive import TAU, measure_text_model, phi
from attnpatch.methods.vision.text_rows import text_rows
from attnpatch.methods.vision.var_measured import measure
from attnpatch.patching.columns import Columns
from attnpatch.patching.edits import Change, Edit, RowsAt
from attnpatch.patching.errors import AttnPatchError, UnsupportedCallError
from attnpatch.patching.layers import select_layers
from attnpatch.patching.method import register


class VARConfig(VisionConfig):
    p: float = Field(0.4, ge=0, le=1, description="share of the sinks' attention that is moved to the image")
    rho: float = Field(
        0.5, ge=0, description="share of image attention on tokens that are no sinks, from which on a head is changed"
    )
    summ: float = Field(0.2, ge=0, le=1, description="attention on the image from which on a head is changed")
    tau: float = Field(
        TAU, gt=0, description="a token is a sink if its largest activation in dims is tau times its rms"
    )
    dims: Integers | None = Field(
        None, description="hidden dimensions of sinks; default: those known for the model, else measured"
    )
    layers: Layers | None = Field(
        None, description="layers that are changed, such as '2:-1'; default: without the first two and the last"
    )
    rows: Literal["after_image", "last", "all_text"] = Field(
        "after_image",
        description="text rows that are changed: behind the first image token; those that predict the answer; all",
    )
    gate: Literal["row", "layer"] = Field(
        "row", description="a row is changed if an image sink stands before it, or anywhere in its prompt"
    )


@dataclass(frozen=True)
class Sinks:
    """What stands out in one layer, of the prompts of a batch.

    tokens: bool `[B, T]`, every sink of the prompt. has: bool `[B]`, is one of them an image token. first: `[B]`,
    index of the first image sink, T if there is none. shares: fp32 `[B, 4, T]`: -1 at sinks; 1 at image tokens that
    are none; 1 at image tokens; the second minus rho times the third. All 0 in rows without an image sink and at
    generated tokens. visual, all_visual: has any row an image sink, have all.
    """

    tokens: torch.Tensor
    has: torch.Tensor
    first: torch.Tensor
    shares: Columns
    visual: bool
    all_visual: bool

    @classmethod
    def of(cls, tokens: torch.Tensor, image: torch.Tensor, rho: float) -> Sinks:
        """tokens, image: bool `[B, T]`, which tokens are sinks, and which are image tokens."""
        seen = tokens & image
        has = seen.any(1)
        first = torch.where(has, seen.int().argmax(1), tokens.shape[1])
        sink, every = tokens.float(), image.float()
        rest = torch.addcmul(every, every, sink, value=-1)
        shares = torch.stack([-sink, rest, every, torch.add(rest, every, alpha=-rho)], 1) * has[:, None, None]
        known = has.tolist()
        return cls(tokens, has, first, Columns(shares), any(known), all(known))


def redistribute(
    weights: torch.Tensor, shares: torch.Tensor, least: torch.Tensor, *, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `[B, H, R, K]` after the move, and which rows of which heads changed, bool `[B, H, R]`.

    shares: `[B, 4, K]` as in `Sinks`. least: what the attention summed by each of the last three must reach. A row's
    sum stays what it was.
    """
    if shares.dtype != weights.dtype:
        shares, least = shares.to(weights.dtype), least.to(weights.dtype)
    flat = weights.flatten(1, 2)  # [B, H R, K]: one product for all heads
    mass = torch.bmm(flat, shares.mT)  # [B, H R, 4]
    changed = (mass[..., 1:] >= least).all(-1, keepdim=True)
    # Minus what another token gains where a sink loses 1.
    share = mass[..., :1] / mass[..., 1:2].clamp_min(torch.finfo(mass.dtype).tiny)
    gain = torch.addcmul(shares[:, :1], share, shares[:, 1:2], value=-1) * changed
    return torch.addcmul(flat, flat, gain, value=p).view_as(weights), changed.view(weights.shape[:3])


@register("var")
class VAR(VisionMethod):
    """A_j <- (1 - p) A_j at sinks; what that frees goes to image tokens that are none, in proportion to theirs."""

    Config = VARConfig
    summary = (
        "moves a share of the attention on sinks to the image tokens that are none, in heads that look at the image"
    )
    paper = "See What You Are Told: Visual Attention Sink in Large Multimodal Models, ICLR 2025, arXiv 2503.03321"
    neutral = "p = 0, or rho > 1, or no image token is a sink"
    limits = "tokens that are generated are not tested for being sinks; p is not given in the paper, 0.4 is its code's"
    evidence = (
        "agrees with the formula written out on every family with image tokens. The paper's gains are about a point, "
        "and third parties found captions no better (CHAIR_S 54.6 to 60.0); not reproduced here, where the sandbox "
        "model has no sinks to take attention from"
    )
    released = {
        "p, share of the sinks' attention that is moved": "p is 1 - p: its 0.6 is p = 0.4",
        "rho, share of image attention on tokens that are no sinks, needed": "rho is 1 - rho: its 0.5 is rho = 0.5",
        "tau, reached or exceeded": "tau, exceeded",
        "gate=row, an image sink stands before the row": "anywhere in the prompt: gate=layer",
        "layers, without the first two and the last": "the last one too",
        "dims, of the language model": "always those of LLaMA-2 7B: 1415, 2533",
    }
    neutral_options = {"p": 0.0, "layers": "all"}
    example_options = {"dims": [30], "tau": 1.5, "layers": "1:"}
    small_options = (
        {"dims": (30, 31), "tau": 1.0, "layers": "all", "rho": 0.0, "summ": 0.0, "p": 0.6},
        {"dims": (30, 31), "tau": 1.0, "layers": "all", "rho": 0.0, "summ": 0.0, "rows": "last", "gate": "layer"},
    )
    reads_whole_prompt = True
    needs_residual = True

    def __init__(self, config: VARConfig | None = None, **options) -> None:
        super().__init__(config, **options)
        self.active = self.config.p > 0 and self.config.rho <= 1
        self.dims: torch.Tensor | None = None
        # Attention on other image tokens, without which there is nowhere to move it; on the image; and the margin.
        self.least = torch.tensor([torch.finfo(torch.float32).tiny, self.config.summ, 0.0])

    @classmethod
    def calibrate(cls, model, batches):
        return measure(model, batches)

    def check(self, site):
        asked = self.config.layers
        if asked is None and site.layers < 4:
            return (
                "by default the first two layers and the last are left out, and the model has no other; name layers="
            )
        if not select_layers(slice(2, -1) if asked is None else asked, site.layers)(site.layer):
            return f"not one of the layers that are changed ({asked or f'2..{site.layers - 2}'})"
        return super().check(site)

    def prepare(self, sites, model):
        super().prepare(sites, model)
        if not self.active:
            return
        dims = self.config.dims or known_options("var", model.config).get("dims") or self._measured(model)
        size = model.config.hidden_size
        if any(not 0 <= dim < size for dim in dims):
            raise AttnPatchError(f"var: dims={list(dims)} must be dimensions of the hidden state, 0 to {size - 1}.")
        self.dims = torch.tensor(dims)

    def _measured(self, model) -> tuple[int, ...]:
        """Dimensions of massive activations, from the text model alone; says so, or raises AttnPatchError."""
        found = measure_text_model(model)
        dims = found.dims(self.config.tau)
        name, command = type(model).__name__, "attnpatch calibrate var MODEL --images DIR --output FILE"
        if not dims:
            raise AttnPatchError(
                f"var: the dimensions of attention sinks are not known for this {name}, and on text alone none "
                f"reaches tau={self.config.tau:g} ({found.strongest()}, {model.config.hidden_size**0.5:.1f} is the "
                f"most there can be). Measure with images, `{command}`, and pass profile=FILE, or name them: "
                "dims=[...]."
            )
        warnings.warn(
            f"attnpatch: var takes dims={list(dims)} for this {name}: the sink dimensions of the model are not known, "
            f"so they were measured on text alone. `{command}` measures them with images.",
            stacklevel=4,
        )
        return dims

    def attend(self, call, inner):
        if not self.active or call.images is None:
            return inner(call)
        sinks = self._sinks(call)
        if sinks.visual and call.query.shape[2] == 1 and call.offset >= call.forward.prompt_end:
            call.edit_as((self, call.layer), self._step)
            return inner(call)
        rows = text_rows(call, self.config.rows) if sinks.visual else None
        if rows is not None:
            mask = self._gated(call, rows.first, rows.mask, sinks)
            call.edit(Edit(self._moved(sinks), first=rows.first, rows=mask))
        return inner(call)

    def _step(self, call) -> Edit:
        """What is changed in the row of a generated token, of every prompt with an image.

        A lone row whose weights are written out anyway needs no fused pass beside it, nor does one in which nothing
        moves. Those of prompts without an image are left to it, bit for bit.
        """
        return Edit(self._moved(self._sinks(call)), rows=generated_rows(call).mask, everywhere=True)

    def _moved(self, sinks: Sinks) -> Change:
        p, shares, least = self.config.p, sinks.shares, self.least.to(sinks.has.device)

        def moved(weights: torch.Tensor, at: RowsAt) -> tuple[torch.Tensor, torch.Tensor]:
            return redistribute(weights, at.of(shares.at(at.key_first, weights.shape[-1])), least, p=p)

        return moved

    def _sinks(self, call) -> Sinks:
        """The sinks of the prompts so far, found as their tokens pass by and kept with the cache."""
        key, prompt = (self, call.layer), call.forward.prompt_end
        before: Sinks | None = call.forward.state.get(key)
        if call.offset and before is None:
            raise UnsupportedCallError(
                f"var was not in layer {call.layer} when the first {call.offset} tokens of the prompt ran, so their "
                "sinks are unknown. Start with a new cache."
            )
        if call.offset >= prompt:
            return before
        if self.config.gate == "layer" and call.end < prompt:
            raise UnsupportedCallError(
                "gate='layer' asks for sinks anywhere in the prompt, and it came in pieces (prefill_chunk_size). Give "
                "it at once, or take gate='row'."
            )
        states = call.residual[:, : prompt - call.offset]
        tokens = phi(states, self.dims.to(states.device)) >= self.config.tau
        if before is not None and call.offset:
            known = Columns(before.tokens).at(0, call.offset)  # what was generated in between is no sink
            tokens = torch.cat([known, tokens], 1)
        found = Sinks.of(tokens, call.images.keys(0, tokens.shape[1]), self.config.rho)
        call.forward.state[key] = found
        return found

    def _gated(self, call, first: int, mask: torch.Tensor | None, sinks: Sinks) -> torch.Tensor | None:
        """`mask` `[B, Q - first]` without rows that have no image sink before them, or none at all."""
        if call.offset + first >= call.forward.prompt_end or self.config.gate == "layer":
            if sinks.all_visual:
                return mask
            has = sinks.has[:, None]
            return has.expand(-1, call.query.shape[2] - first) if mask is None else mask & has
        position = torch.arange(call.offset + first, call.end, device=sinks.first.device)
        behind = position > sinks.first[:, None]
        return behind if mask is None else mask & behind
