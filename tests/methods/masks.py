"""The sheets' formulas as explicit masks, written apart from the library, and models that run them."""

from __future__ import annotations

import torch
import transformers as tf

from tests import zoo


def one_layer(**changes) -> tf.LlamaForCausalLM:
    """A llama of one layer: its 4-D mask is then the layer's mask."""
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(tf.LlamaConfig(**{**zoo.TEXT, "num_hidden_layers": 1, **changes})).eval()


def tokens(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 100, (1, length), generator=torch.Generator().manual_seed(seed))


def logits_under(model, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits of the stock model under an explicit boolean mask `[Q, K]`."""
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask[None, None]).logits


def indices(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    at = torch.arange(length)
    return at[:, None], at[None, :]


def sliding_mask(length: int, window: int, sink: int) -> torch.Tensor:
    i, j = indices(length)
    return (j <= i) & ((i - j < window) | (j < sink))


def slots_mask(order: torch.Tensor, before: int, after: int, circular: bool, sink: int = 0, local: int = 0):
    """stochastic.md: causal by original order, within the window by shuffled order."""
    n = len(order)
    slot = torch.empty(n, dtype=torch.long)
    slot[order] = torch.arange(n)
    i, j = indices(n)
    gap = slot[None, :] - slot[:, None]  # positive: the key stands behind the query in the shuffled order
    near = (gap <= after) & (-gap <= before)
    if circular:
        near |= ((gap + n) <= after) | ((n - gap) <= before)
    return (j <= i) & (near | (i == j) | (j < sink) | (i - j < local))


def buckets_mask(order: torch.Tensor, size: int) -> torch.Tensor:
    n = len(order)
    bucket = torch.empty(n, dtype=torch.long)
    bucket[order] = torch.arange(n) // size
    i, j = indices(n)
    return (j <= i) & (bucket[:, None] == bucket[None, :])
