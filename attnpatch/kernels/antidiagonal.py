"""XAttention's estimate of block masses from strided antidiagonals, and its choice of blocks.

Source: "XAttention: Block Sparse Attention with Antidiagonal Scoring", arXiv 2503.16428, and its released code. All
tokens are real ones of one row; groups of `stride` tokens and blocks are counted from the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

SELECT = ("inverse", "slash", "random")


def antidiagonal_scores(
    q: torch.Tensor,
    k: torch.Tensor,
    *,
    stride: int,
    scale: float | None = None,
    norm: float = 1.0,
    select: str = "inverse",
    chunk: int = 2048,
) -> Iterator[torch.Tensor]:
    """Softmax over stride groups of keys, in chunks of query tokens: [H, chunk / S, key groups up to the chunk's end].

    q: [H, Q, D], the last Q of the K tokens, the first of them at the start of a group; k: [Hkv, K, D].
    Score of query group u and key group v: scale / (S norm) times the sum over r < S of q[u S + p(r)] . k[v S + r],
    with p(r) = S - 1 - r ("inverse", the antidiagonal of the S x S tile), r ("slash") or a fixed shuffle ("random").
    v > u is hidden. Tokens missing in the last group count as zeros.
    """
    heads, rows, dim = q.shape
    past = k.shape[1] - rows
    if rows < 1 or past < 0 or past % stride or heads % k.shape[0]:
        raise ValueError(
            f"queries must start at a multiple of stride={stride} among the keys, and query heads must be a multiple "
            f"of key heads; got q {list(q.shape)} and k {list(k.shape)}"
        )
    if chunk < stride or chunk % stride:
        raise ValueError(f"chunk must be a multiple of stride={stride}, got {chunk}")
    scale = (dim**-0.5 if scale is None else scale) / (stride * norm)
    places = _places(stride, select, q.device)
    keys = _grouped(k, stride).flatten(2).transpose(1, 2)
    base = past // stride
    work = torch.promote_types(q.dtype, torch.float32)
    for start in range(0, rows, chunk):
        queries = _grouped(q[:, start : start + chunk], stride)[:, :, places].flatten(2)
        first = base + start // stride
        last = first + queries.shape[1]
        folded = queries.reshape(k.shape[0], -1, queries.shape[2])
        scores = (folded @ keys[:, :, :last]).to(work).mul_(scale).view(heads, -1, last)
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu_(first + 1)
        yield scores.masked_fill_(later, -torch.inf).softmax(2)


def block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    *,
    stride: int,
    block: int,
    scale: float | None = None,
    norm: float = 1.0,
    select: str = "inverse",
    chunk: int = 2048,
) -> torch.Tensor:
    """Estimated attention mass of every pair of blocks: [H, query blocks, key blocks], fp32 or wider.

    Arguments as in `antidiagonal_scores`; the queries must start at a multiple of `block` among the keys. Memory is
    O(chunk K / S^2) per head, without gradients.
    """
    rows, keys = q.shape[1], k.shape[1]
    if block % stride or (keys - rows) % block or chunk % block:
        raise ValueError(
            f"block must be a multiple of stride, and chunk and the place of the first query multiples of block; got "
            f"stride={stride}, block={block}, chunk={chunk}, {rows} queries of {keys} tokens"
        )
    options = {"stride": stride, "scale": scale, "norm": norm, "select": select, "chunk": chunk}
    size, columns = block // stride, -(-keys // block)
    found = []
    with torch.no_grad():
        for weights in antidiagonal_scores(q, k, **options):
            tail = -weights.shape[1] % size
            weights = F.pad(weights, (0, columns * size - weights.shape[2], 0, tail))
            found.append(weights.unflatten(2, (columns, size)).sum(3).unflatten(1, (-1, size)).sum(2))
    return torch.cat(found, 1)


def choose_blocks(mass: torch.Tensor, threshold: float, *, first: int = 0) -> torch.Tensor:
    """Blocks to keep: bool like mass [H, query blocks, key blocks], whose first row is query block `first`.

    The first and the diagonal block are kept and their mass is counted first; further blocks follow in decreasing
    mass while the mass before them is below `threshold` times the row's. threshold >= 1 keeps all causal blocks.
    """
    rows, columns = mass.shape[1:]
    row = torch.arange(first, first + rows, device=mass.device)[:, None]
    column = torch.arange(columns, device=mass.device)
    causal = column <= row
    if threshold >= 1:
        return causal.expand_as(mass).clone()
    forced = (column == 0) | (column == row)
    mass = mass.double() * causal
    order = mass.masked_fill(forced, torch.inf).argsort(dim=2, descending=True, stable=True)
    ranked = mass.gather(2, order)
    reached = ranked.cumsum(2)
    wanted = reached - ranked < threshold * reached[:, :, -1:]
    keep = torch.zeros_like(wanted).scatter_(2, order, wanted)
    return (keep | forced) & causal


def _grouped(x: torch.Tensor, stride: int) -> torch.Tensor:
    """x [H, N, D] as groups [H, ceil(N / S), S, D], zeros where tokens are missing."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % stride)).unflatten(1, (-1, stride))


def _places(stride: int, select: str, device) -> torch.Tensor:
    """The query of a group that meets its key r, for r < stride."""
    if select == "inverse":
        return torch.arange(stride - 1, -1, -1, device=device)
    if select == "slash":
        return torch.arange(stride, device=device)
    if select == "random":  # drawn on CPU: the same on every device and in every call
        return torch.randperm(stride, generator=torch.Generator().manual_seed(0)).to(device)
    raise ValueError(f"select must be one of {', '.join(SELECT)}, got {select!r}")
