"""Attention kernels: pure functions on tensors, torch only.

A rule says which keys a query may see; `attend` computes attention under it without an N x N matrix.
"""

from __future__ import annotations

from .antidiagonal import antidiagonal_scores, block_mass, choose_blocks
from .attend import Attended, attend
from .backends import BACKENDS
from .block_rule import Blocks
from .decode import decode
from .merge import merge
from .reference import reference_attention
from .rows import row_outputs, row_scores, row_weights, softmax_rows
from .rules import Causal, PermutedBuckets, PermutedWindow, Rule, Window
from .spans import visible_mask

__all__ = [
    "BACKENDS",
    "Attended",
    "Blocks",
    "Causal",
    "PermutedBuckets",
    "PermutedWindow",
    "Rule",
    "Window",
    "antidiagonal_scores",
    "attend",
    "block_mass",
    "choose_blocks",
    "decode",
    "merge",
    "reference_attention",
    "row_outputs",
    "row_scores",
    "row_weights",
    "softmax_rows",
    "visible_mask",
]
