"""The query states of some tokens before RoPE, from a site's own projection and norm."""

from __future__ import annotations

import torch
from torch import nn

from attnpatch.patching.sites import Site


def query_dim(module: nn.Module, site: Site) -> int | None:
    """Head dimension of `queries_before_rope`, or None where the module does not project queries by a `q_proj` alone.

    Fused projections, latent ones and those that also hold an output gate count as None.
    """
    width = getattr(getattr(module, "q_proj", None), "out_features", None)
    dim = getattr(module, "head_dim", None)
    if width is None or site.heads is None or width % site.heads:
        return None
    own = width // site.heads
    return own if dim is None or dim == own else None


def queries_before_rope(module: nn.Module, hidden: torch.Tensor, dim: int) -> torch.Tensor:
    """Queries `[B, T, H, D]` of the layer input `hidden` `[B, T, hidden]`, after the query norm if there is one.

    dim: what `query_dim` said. Costs one projection of these T tokens, so ask for few.
    """
    flat = module.q_proj(hidden)
    norm = getattr(module, "q_norm", None)
    weight = getattr(norm, "weight", None)
    over_heads = weight is None or weight.shape[-1] == dim
    if norm is not None and not over_heads:
        flat = norm(flat)  # one norm over all heads together (OLMo 2)
    states = flat.unflatten(-1, (-1, dim))
    return norm(states) if norm is not None and over_heads else states
