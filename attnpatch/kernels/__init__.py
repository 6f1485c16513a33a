"""Attention kernels: pure functions on tensors, torch only.

A rule says which keys a query may see; `attend` computes attention under it without an N x N matrix.
"""

from __future__ import annotations

from .attend import Attended, attend
from .backends import BACKENDS
from .decode import decode
from .merge import merge
from .reference import reference_attention
from .rows import row_outputs, row_weights
from .rules import Causal, PermutedBuckets, PermutedWindow, Rule, Window
from .spans import visible_mask

__all__ = [
    "BACKENDS",
    "Attended",
    "Causal",
    "PermutedBuckets",
    "PermutedWindow",
    "Rule",
    "Window",
    "attend",
    "decode",
    "merge",
    "reference_attention",
    "row_outputs",
    "row_weights",
    "visible_mask",
]
