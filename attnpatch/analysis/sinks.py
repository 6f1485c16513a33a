"""Attention sinks in the residual stream: the first token's, and tokens that turn to its direction for some layers.

Sources: "Secondary Attention Sinks", arXiv 2512.22213 (the detector is that of its code); "See What You Are Told",
arXiv 2503.03321, and "Massive Activations in Large Language Models", arXiv 2402.17762 (phi and the dimensions). A
label says how long a token looks like the first one, not that it causes anything.

>>> trace = residual_trace(model, **tokenizer("Some text", return_tensors="pt"))
>>> find_sinks(trace.norms[:, 0], trace.cosines[:, 0], first=trace.first[0])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnpatch.methods.vision.massive import ALIKE, middle, phi, residual_stream, spikes
from attnpatch.patching.errors import AttnPatchError

__all__ = ["FoundSinks", "Trace", "find_sinks", "middle", "phi", "residual_trace", "sink_score", "spikes"]

JUMP = 5.0  # growth of the first token's norm in one layer below which there is no primary sink
DEEP = 48  # layers from which on the code's margin of 15 layers fits; below it is a share of the depth
MARGIN, SHARE = 15, 0.7
SECONDARY = 4  # a secondary sink lasts longer than so many layers


@dataclass(frozen=True)
class Trace:
    """What a prefill leaves behind of its residual stream h_l, l = 0..L (what enters layer l, or leaves the last).

    norms: `[L+1, B, T]`; cosines: to the row's first token, `[L+1, B, T]`; both 0 at padding. first: that token's
    index in each row.
    """

    norms: torch.Tensor
    cosines: torch.Tensor
    first: tuple[int, ...]


@dataclass(frozen=True)
class FoundSinks:
    """Sinks of one row.

    start, end: the first token is massive in the layers start..end-1, until it loses most, and half of its norm at
    least; None without a primary sink, and reason says why. lasting: layers in which each token points where the
    first one does, `[T]`. labels: by token, "bos_sink", "secondary" or "noise", of those that do so in any layer.
    """

    start: int | None
    end: int | None
    lasting: torch.Tensor
    labels: dict[int, str]
    reason: str | None = None


def residual_trace(
    model: nn.Module, *, bos_token_id: int | None = None, attention_mask: torch.Tensor | None = None, **inputs: Any
) -> Trace:
    """Norms and directions of the residual stream in one prefill; the model's outputs do not change.

    Args:
        model: a language or vision-language model, patched or not.
        bos_token_id: where a row holds it several times, the one with the highest mean norm is taken for its first
            token; None: the first real token.
        attention_mask: `[B, T]`, as for the model.
        inputs: what else the model takes.

    Raises AttnPatchError for an attention mask that is not `[B, T]`.
    """
    if attention_mask is not None and attention_mask.ndim != 2:
        raise AttnPatchError(f"attention_mask must be [batch, tokens], got {list(attention_mask.shape)}.")
    candidates = _candidates(inputs.get("input_ids"), attention_mask, bos_token_id)
    norms: dict[int, torch.Tensor] = {}
    towards: dict[int, torch.Tensor] = {}  # cosines to each candidate, [C, B, T]

    def see(layer: int, states: torch.Tensor) -> None:
        states = states.detach().float()
        norms[layer] = states.norm(dim=-1)
        found = [torch.cosine_similarity(states, _at(states, one.to(states.device)), dim=-1) for one in candidates]
        towards[layer] = torch.stack(found)

    masked = {} if attention_mask is None else {"attention_mask": attention_mask}
    with residual_stream(model, see) as layers, torch.no_grad():
        model(**inputs, **masked, use_cache=False)
    every = torch.stack([norms[layer] for layer in range(layers + 1)])
    cosines = torch.stack([towards[layer] for layer in range(layers + 1)])  # [L+1, C, B, T]
    rows = torch.arange(every.shape[1], device=every.device)
    size = torch.stack([every[:, rows, one.to(every.device)].mean(0) for one in candidates])  # [C, B]
    best = size.argmax(0)
    first = torch.stack(candidates).to(every.device)[best, rows]
    real = torch.ones_like(every[0], dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    return Trace(every * real, cosines[:, best, rows] * real, tuple(first.tolist()))


def _candidates(ids: torch.Tensor | None, attention_mask: torch.Tensor | None, bos: int | None) -> list[torch.Tensor]:
    """Indices `[B]` that may be the first token: the first real one, and every further `bos` of a row."""
    if ids is None and attention_mask is None:
        return [torch.zeros(1, dtype=torch.long)]
    like = ids if ids is not None else attention_mask
    first = torch.zeros(like.shape[0], dtype=torch.long, device=like.device)
    if attention_mask is not None:
        first = attention_mask.int().argmax(1)
    if ids is None or bos is None:
        return [first]
    places = [row.nonzero().flatten().tolist() for row in ids == bos]
    most = max(map(len, places))
    filled = [(at + [int(start)] * most)[:most] for at, start in zip(places, first, strict=True)]
    return [first, *torch.tensor(filled, device=like.device).reshape(len(places), most).T]


def _at(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return states[torch.arange(states.shape[0], device=states.device), index].unsqueeze(1)


def find_sinks(
    norms: torch.Tensor,
    cosines: torch.Tensor,
    *,
    first: int = 0,
    cos: float = ALIKE,
    primary_margin: int | None = None,
    secondary_min: int = SECONDARY,
) -> FoundSinks:
    """Sinks of one row, from `norms` and `cosines` `[L+1, T]` of a `Trace`.

    Args:
        first: index of the row's first token.
        cos: a token is a sink in a layer if its direction is that close to the first one's, either way.
        primary_margin: a token is a "bos_sink" if it is one in all but so many layers. Default: 15, and below 48
            layers in 70 % of them.
        secondary_min: a "secondary" sink is one in more layers than that.
    """
    layers = norms.shape[0] - 1
    grown = norms[1:, first] - norms[:-1, first]
    start = int(grown.argmax()) + 1
    none = torch.zeros(norms.shape[1], dtype=torch.long)
    jump = float(norms[start, first] / norms[start - 1, first].clamp(min=1e-12))
    if jump <= JUMP:
        return FoundSinks(
            None, None, none, {}, f"no primary sink: the first token's norm grows at most {jump:.1f} times in a layer"
        )
    end = start + int(grown[start:].argmin()) + 1 if start < layers else layers + 1
    if end <= layers and norms[end, first] > norms[end - 1, first] / 2:
        end = layers + 1  # it only wavers: massive to the end
    lasting = (cosines[start:end].abs() > cos).sum(0).cpu()
    margin = primary_margin if primary_margin is not None else MARGIN if layers >= DEEP else (1 - SHARE) * layers
    labels = {}
    for token in lasting.nonzero().flatten().tolist():
        held = int(lasting[token])
        labels[token] = "bos_sink" if held >= layers - margin else "secondary" if held > secondary_min else "noise"
    return FoundSinks(start, end, lasting, labels)


def sink_score(weights: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    """Mean attention that each token gets from the tokens behind it, over heads and rows: `[B, T]`.

    weights: `[B, H, T, T]`; real: bool `[B, T]`, False at padding, whose rows do not count. The last token gets 0.
    """
    batch, _, count, _ = weights.shape
    real = torch.ones(batch, count, dtype=torch.bool, device=weights.device) if real is None else real.bool()
    behind = torch.ones(count, count, dtype=torch.bool, device=weights.device).tril(-1) & real[:, :, None]
    given = (weights.float().mean(1) * behind).sum(1)
    return given / behind.sum(1).clamp(min=1)
