"""Shared inputs of the kernel tests."""

from __future__ import annotations

import torch

from attnpatch.kernels import Blocks, Causal, PermutedBuckets, PermutedWindow, Window


def shuffled(n):
    """One fixed permutation per length."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(1000 + n))


def shuffled_by_head(n, heads=2):
    return torch.stack([torch.randperm(n, generator=torch.Generator().manual_seed(7 * n + h)) for h in range(heads)])


def random_blocks(heads, queries, keys, first=0, share=0.3, seed=0):
    """kept [heads, queries, keys] at random, with the diagonal; what lies behind it is random too."""
    make = torch.Generator().manual_seed(seed)
    kept = torch.rand(heads, queries, keys, generator=make) < share
    kept.diagonal(first, 1, 2).fill_(True)
    return kept


RULES = {
    "causal": Causal(),
    "window": Window(37),
    "window-sinks": Window(30, sink=5),
    "window-reach": Window(40, sink=60, reach=55),
    "slots": PermutedWindow(shuffled, 20, 19),
    "slots-open": PermutedWindow(shuffled, 25, 4, circular=False, sink=4),
    "slots-local": PermutedWindow(shuffled, 9, 8, sink=3, local=7),
    "slots-heads": PermutedWindow(shuffled_by_head, 12, 11),
    "buckets": PermutedBuckets(shuffled, 48),
    "buckets-previous": PermutedBuckets(shuffled, 31, previous=1, sink=2),
    "buckets-local": PermutedBuckets(shuffled, 24, sink=2, local=5),
    "blocks": Blocks(random_blocks(1, 21, 24, first=2), 16, first=2),
}


def inputs(batch=2, heads=4, kv_heads=2, queries=203, keys=None, dim=32, value_dim=None, dtype=torch.float32, seed=0):
    """q, k, v in the layout that Hugging Face hands over: [B, N, H, D] transposed."""
    keys = queries if keys is None else keys
    value_dim = dim if value_dim is None else value_dim
    make = torch.Generator().manual_seed(seed)
    shapes = ((queries, heads, dim), (keys, kv_heads, dim), (keys, kv_heads, value_dim))
    return tuple(torch.randn(batch, *shape, generator=make).to(dtype).transpose(1, 2) for shape in shapes)


TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 4e-2, torch.float16: 5e-3}
