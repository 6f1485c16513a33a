"""XAttention's estimate and choice of blocks against its formulas, written out pair by pair."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch.kernels import Causal, antidiagonal_scores, block_mass, choose_blocks, reference_attention

from .cases import inputs


def some(tokens: int, heads: int = 4, kv_heads: int = 2, dim: int = 8, seed: int = 0):
    q, k, _ = inputs(1, heads, kv_heads, tokens, dim=dim, dtype=torch.float64, seed=seed)
    return q[0], k[0]


def written_out(q, k, stride: int, pair, norm: float = 1.0) -> torch.Tensor:
    """Pn [H, groups, groups]; pair(r): the query of a group that meets its key r."""
    heads, tokens, dim = q.shape
    group, count = heads // k.shape[0], -(-tokens // stride)
    scores = torch.full((heads, count, count), -torch.inf, dtype=torch.float64)
    for h in range(heads):
        for u in range(count):
            for v in range(u + 1):
                total = 0.0
                for r in range(stride):
                    i, j = u * stride + pair(r), v * stride + r
                    if i < tokens and j < tokens:
                        total += (q[h, i] @ k[h // group, j]).item()
                scores[h, u, v] = total / (math.sqrt(dim) * stride * norm)
    return scores.softmax(2)


def joined(chunks, groups: int) -> torch.Tensor:
    """Chunks of scores as one matrix [H, groups, groups]."""
    return torch.cat([torch.nn.functional.pad(chunk, (0, groups - chunk.shape[2])) for chunk in chunks], 1)


@pytest.mark.parametrize("norm", [1.0, 2.5])
@pytest.mark.parametrize("tokens", [24, 22, 3])
@pytest.mark.parametrize("select, pair", [("inverse", lambda r: 3 - r), ("slash", lambda r: r), ("random", None)])
def test_scores_are_the_formula(select, pair, tokens, norm):
    q, k = some(tokens)
    if select == "random":
        order = torch.randperm(4, generator=torch.Generator().manual_seed(0)).tolist()
        assert order != [0, 1, 2, 3]
        pair = order.__getitem__
    expected = written_out(q, k, 4, pair, norm)
    found = joined(antidiagonal_scores(q, k, stride=4, norm=norm, select=select), expected.shape[1])
    assert (found - expected).abs().max() < 1e-12


def test_stride_one_is_exact_attention():
    q, k = some(40)
    _, exact = reference_attention(q[None], k[None], k[None], Causal())
    (scores,) = antidiagonal_scores(q, k, stride=1)
    assert (scores - exact[0]).abs().max() < 1e-12
    mass = block_mass(q, k, stride=1, block=8)
    assert (mass - exact[0].unflatten(1, (5, 8)).unflatten(3, (5, 8)).sum((2, 4))).abs().max() < 1e-12
    (scores,) = antidiagonal_scores(q, k, stride=1, scale=0.7)
    _, exact = reference_attention(q[None], k[None], k[None], Causal(), scale=0.7)
    assert (scores - exact[0]).abs().max() < 1e-12


def test_constant_keys_spread_evenly():
    q, _ = some(64)
    k = torch.ones(2, 64, 8, dtype=torch.float64)
    (scores,) = antidiagonal_scores(q, k, stride=4)
    u, v = torch.arange(16)[:, None], torch.arange(16)[None, :]
    assert (scores - torch.where(v <= u, 1 / (u + 1).double(), 0)).abs().max() < 1e-12


@pytest.mark.parametrize("tokens", [64, 61, 128, 33])
@pytest.mark.parametrize("chunk", [8, 16, 32])
def test_chunks_equal_one_shot(tokens, chunk):
    """Also where no token is missing at the end, and every chunk sees all chunks before it."""
    q, k = some(tokens)
    whole = block_mass(q, k, stride=4, block=8, chunk=2048)
    assert (block_mass(q, k, stride=4, block=8, chunk=chunk) - whole).abs().max() < 1e-12
    shapes = [scores.shape for scores in antidiagonal_scores(q, k, stride=4, chunk=chunk)]
    assert max(shape[1] for shape in shapes) == chunk // 4
    assert [shape[2] for shape in shapes] == [-(-min(end, tokens) // 4) for end in range(chunk, tokens + chunk, chunk)]
    later = block_mass(q[:, 24:], k, stride=4, block=8, chunk=chunk)
    assert (later - whole[:, 3:]).abs().max() < 1e-12


def test_a_missing_tail_changes_no_earlier_row():
    q, k = some(64)
    whole = block_mass(q, k, stride=4, block=8)
    for tokens in (57, 58, 60, 63):
        part = block_mass(q[:, :tokens], k[:, :tokens], stride=4, block=8)
        assert part.shape == (4, 8, 8)
        assert (part[:, :7] - whole[:, :7]).abs().max() < 1e-12
    # A block of 8 holds two groups of 4; what is missing takes part in none of them.
    assert part[:, 7].sum(1).tolist() == pytest.approx([2.0] * 4)
    assert block_mass(q[:, :60], k[:, :60], stride=4, block=8)[:, 7].sum(1).tolist() == pytest.approx([1.0] * 4)


def test_later_tokens_change_no_earlier_block():
    q, k = some(64)
    before = block_mass(q, k, stride=4, block=8)
    q, k = q.clone(), k.clone()
    q[:, 40:] += 1.0
    k[:, 40:] -= 2.0
    after = block_mass(q, k, stride=4, block=8)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])
    assert not before.triu(1).any()


def test_half_precision_scores_in_float32():
    q, k = (x.bfloat16() for x in some(64))
    mass = block_mass(q, k, stride=4, block=8)
    assert mass.dtype == torch.float32
    assert (mass - block_mass(q.double(), k.double(), stride=4, block=8)).abs().max() < 0.02


def chosen_one_by_one(mass: torch.Tensor, a: int, threshold: float) -> set[int]:
    """One row of the sheet's `keep`: mass [key blocks] of query block a."""
    kept = {0, a}
    for c in sorted(set(range(a + 1)) - kept, key=lambda c: -mass[c]):
        if sum(mass[c] for c in kept) < threshold * sum(mass):
            kept.add(c)
    return kept


MASS = st.integers(1, 9).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, 1 << 20), st.sampled_from([0.3, 0.5, 0.9, 0.97]), st.booleans())
)


@settings(max_examples=100, deadline=None)
@given(MASS)
def test_choice_is_the_smallest_set_that_holds_the_share(case):
    n, seed, threshold, peaked = case
    make = torch.Generator().manual_seed(seed)
    mass = torch.rand(3, n, n, generator=make, dtype=torch.float64).pow(8 if peaked else 1).tril()
    keep = choose_blocks(mass, threshold)
    assert not keep.triu(1).any()
    assert keep[:, :, 0].all()
    assert keep.diagonal(0, 1, 2).all()
    for h in range(3):
        for a in range(n):
            row, kept = mass[h, a], keep[h, a].nonzero().flatten().tolist()
            assert set(kept) == chosen_one_by_one(row.tolist(), a, threshold)
            free = [c for c in kept if c not in (0, a)]
            assert row[kept].sum() >= threshold * row.sum() - 1e-12
            if free:
                last = min(free, key=lambda c: row[c])
                assert row[kept].sum() - row[last] < threshold * row.sum()
    first = n // 2
    assert torch.equal(choose_blocks(mass[:, first:], threshold, first=first), keep[:, first:])


def test_forced_blocks_are_counted_first():
    """Heavy forced blocks leave nothing to add; a heavy block in between does not make up for light forced ones."""
    mass = torch.tensor([[[1.0, 0, 0, 0], [1, 1, 0, 0], [4, 1, 5, 0], [1, 5, 3, 1]]])
    assert choose_blocks(mass, 0.9)[0, 2].tolist() == [True, False, True, False]
    assert choose_blocks(mass, 0.91)[0, 2].tolist() == [True, True, True, False]
    assert choose_blocks(mass, 0.7)[0, 3].tolist() == [True, True, False, True]
    assert choose_blocks(mass, 0.701)[0, 3].tolist() == [True, True, True, True]


def test_more_threshold_keeps_more_and_one_keeps_all():
    q, k = some(256, dim=16)
    mass = block_mass(q, k, stride=4, block=16)
    kept = [choose_blocks(mass, threshold) for threshold in (0.1, 0.5, 0.8, 0.9, 0.99, 1.0, 1.5)]
    assert all((less <= more).all() for less, more in pairwise(kept))
    assert kept[0].sum() < kept[3].sum() < kept[-1].sum()
    # Not by adding up: a row of 1 + tiny + tiny... reaches its own sum before its last blocks.
    tiny = torch.full((1, 40, 40), 1e-20).tril()
    tiny[:, :, 0] = 1.0
    assert choose_blocks(tiny, 1.0).sum() == 40 * 41 / 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"stride": 3}, "block must be a multiple of stride"),
        ({"chunk": 12}, "multiples of block"),
        ({"select": "diagonal"}, "select must be one of inverse, slash, random"),
    ],
)
def test_bad_sizes(change, words):
    with pytest.raises(ValueError, match=words):
        block_mass(*some(32), **{"stride": 4, "block": 8, **change})


def test_bad_places():
    q, k = some(32)
    with pytest.raises(ValueError, match="place of the first query"):
        block_mass(q[:, 12:], k, stride=4, block=8)
    with pytest.raises(ValueError, match="multiple of stride=4 among the keys"):
        next(antidiagonal_scores(q[:, 3:], k, stride=4))
    with pytest.raises(ValueError, match="multiple of stride=4, got 6"):
        next(antidiagonal_scores(q, k, stride=4, chunk=6))
