"""Fixed plans: which layers stay full, without a router. They are what a router has to beat.

Rankings: at random, by the matrix entropy of the layers' inputs, or by the error that a sparse layer causes.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from attnpatch.data_files import data_file
from attnpatch.patching.errors import AttnPatchError

if TYPE_CHECKING:
    from attnpatch.patching.sites import Site

WORDS = ("full", "sparse")
RANKED = ("random", "entropy", "calibrate")
NEEDS_PROMPTS = ("entropy", "calibrate")
DEFAULT_OMEGA = 0.5
EIGENVALUES = 64  # terms of the truncated entropy
HELP = (
    "Allowed: 'full', 'sparse', one letter per layer such as 'sfss', a list of 1 (full) and 0 (sparse), or "
    "'random:0.5', 'entropy:0.5', 'calibrate:0.5' with the share of sparse layers"
)
Plan = str | list[int]


def check(plan: Plan) -> Plan:
    """`plan` if it can be read, else ValueError."""
    if isinstance(plan, list):
        if plan and all(gate in (0, 1) for gate in plan):
            return plan
        raise ValueError(f"a list of layers holds 1 (full) and 0 (sparse) only. {HELP}")
    kind, omega = split(plan)
    if plan in WORDS or (plan and set(plan) <= set("fs")):
        return plan
    if kind not in RANKED:
        raise ValueError(f"unknown plan {plan!r}. {HELP}")
    if not 0 <= omega <= 1:
        raise ValueError(f"the share of sparse layers must lie in 0..1, got {omega}. {HELP}")
    return plan


def split(plan: str) -> tuple[str, float]:
    """`entropy:0.5` as ("entropy", 0.5). Raises ValueError for a share that is no number."""
    kind, colon, share = plan.partition(":")
    try:
        return kind, float(share) if colon else DEFAULT_OMEGA
    except ValueError:
        raise ValueError(f"{share!r} in plan {plan!r} is no number. {HELP}") from None


def prompts_from(given: str | list[list[int]]) -> list[list[int]]:
    """Token ids of the prompts to rank layers on, from a JSON-lines file of `{"input_ids": [...]}` or a list.

    Raises AttnPatchError for a file that cannot be read, and for prompts that are none.
    """
    if isinstance(given, str):
        path = data_file(given)
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            given = [json.loads(line)["input_ids"] for line in lines if line.strip()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AttnPatchError(
                f'prompts={str(path)!r} cannot be read: {error}. It takes one {{"input_ids": [...]}} per line.'
            ) from error
    whole = [isinstance(ids, list) and len(ids) > 1 and all(type(one) is int for one in ids) for ids in given]
    if not given or not all(whole):
        raise AttnPatchError("prompts must hold one or more lists of two or more token ids.")
    return given


def resolve(
    plan: Plan,
    sites: list[Site],
    *,
    seed: int,
    scores: Callable[[str], list[float]],
) -> dict[int, bool]:
    """`{layer: full?}` of the sites. scores(kind): one number per site; the highest stay full.

    Raises AttnPatchError for a list of another length.
    """
    layers, count = [site.layer for site in sites], len(sites)
    if plan in WORDS:
        return dict.fromkeys(layers, plan == "full")
    if isinstance(plan, list) or set(plan) <= set("fs"):
        if len(plan) != count:
            raise AttnPatchError(
                f"plan={plan!r} names {len(plan)} layers, but {count} are patched: {layers}. Give one gate each."
            )
        return {layer: gate in (1, "f") for layer, gate in zip(layers, plan, strict=True)}
    kind, omega = split(plan)
    most = math.floor((1 - omega) * count + 1e-9)
    if kind == "random":
        chosen = set(random.Random(f"flux/{seed}/{count}").sample(range(count), most))
    else:
        ranked = scores(kind)
        chosen = set(sorted(range(count), key=lambda index: -ranked[index])[:most])
    return {layer: index in chosen for index, layer in enumerate(layers)}


@torch.no_grad()
def entropies(model: nn.Module, sites: list[Site], prompts: list[list[int]]) -> list[float]:
    """Truncated matrix entropy of each layer's input X `[tokens, hidden]`, mean over prompts.

    -sum λ log λ over the largest eigenvalues λ of X Xᵀ / trace.
    """
    totals = [0.0] * len(sites)
    for ids in prompts:
        with _measuring(model):
            states = model(_batch(model, ids), use_cache=False, output_hidden_states=True).hidden_states
        for index, site in enumerate(sites):
            eigenvalues = torch.linalg.svdvals(states[site.layer][0].float()).square()
            share = (eigenvalues / eigenvalues.sum().clamp(min=1e-30))[:EIGENVALUES]
            totals[index] += float(torch.special.entr(share).sum())
    return [total / len(prompts) for total in totals]


@torch.no_grad()
def errors(
    model: nn.Module, sites: list[Site], prompts: list[list[int]], sparse_at: Callable[[int], object]
) -> list[float]:
    """Relative error of the last token's final state when one layer alone is sparse, mean over prompts.

    The last token alone: it is the one the answer is read from, and others drown it in errors that cost nothing.

    sparse_at(index): a context in which the site of that index is sparse.
    """
    batches = [_batch(model, ids) for ids in prompts]
    expected = [_last(model, batch) for batch in batches]
    found = []
    for index in range(len(sites)):
        with sparse_at(index):
            changed = [_last(model, batch) for batch in batches]
        found.append(sum(float((c - e).norm() / e.norm()) for c, e in zip(changed, expected, strict=True)))
    return [total / len(prompts) for total in found]


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """Without dropout, also in a model that is being trained."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _batch(model: nn.Module, ids: list[int]) -> torch.Tensor:
    embeddings = model.get_input_embeddings().weight
    if not 0 <= min(ids) <= max(ids) < embeddings.shape[0]:
        raise AttnPatchError(
            f"prompts hold token ids from {min(ids)} to {max(ids)}, and the model knows 0..{embeddings.shape[0] - 1}."
        )
    # Offloaded weights stand on "meta" between forwards; the inputs are then moved along with them.
    return torch.tensor([ids], device="cpu" if embeddings.is_meta else embeddings.device)


def _last(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with _measuring(model):
        return model(batch, use_cache=False).last_hidden_state[:, -1].float()
