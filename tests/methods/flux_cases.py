"""What the tests of flux share: prompts, routers that send rows different ways, runs under a patch."""

from __future__ import annotations

from functools import cache

import torch

import attnpatch
from tests import zoo
from tests.snapshots import generated_logits

WINDOW = {"local": 4, "sink": 1}


def prompt(length: int = 12, seed: int = 3) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 100, (1, length), generator=torch.Generator().manual_seed(seed))}


def batch(*rows: torch.Tensor, side: str = "left") -> dict[str, torch.Tensor]:
    """Prompts `[1, T]` as one padded batch, with positions for a plain forward."""
    longest = max(row.shape[1] for row in rows)
    ids, mask = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(2))
    for index, row in enumerate(rows):
        at = slice(longest - row.shape[1], longest) if side == "left" else slice(0, row.shape[1])
        ids[index, at], mask[index, at] = row[0], 1
    return {"input_ids": ids, "attention_mask": mask}


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


def gates_of(patch) -> dict[int, list[bool]]:
    return patch.methods[-1].gates


@cache
def mixed(family: str = "llama") -> tuple[dict, torch.Tensor, torch.Tensor]:
    """Options of flux and two prompts of different length that some layer routes differently."""
    model = zoo.build(family)
    for seed in range(40):
        options = {"router": "untrained", "seed": seed, **WINDOW}
        with attnpatch.apply(model, "flux", **options) as patch, torch.no_grad():
            found = {}
            for number in range(8):
                one = prompt(9 + number % 2 * 3, number)["input_ids"]
                model(one)
                found.setdefault((one.shape[1], tuple(gate for row in gates_of(patch).values() for gate in row)), one)
        for (short, ways), one in found.items():
            for (long, others), two in found.items():
                if short < long and ways != others and True in ways + others and False in ways + others:
                    return options, one, two
    raise RuntimeError("no seed routes two prompts differently")


def close(one: torch.Tensor, two: torch.Tensor) -> bool:
    return torch.allclose(one.float(), two.float(), atol=2e-5, rtol=1e-4)


def logits(model, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def generated(model, options: dict, inputs: dict, method: str = "flux", **run):
    """Sequences, logits and gates of a generation under the method."""
    with attnpatch.apply(model, method, **options) as patch:
        return *generated_logits(model, inputs, **run), dict(getattr(patch.methods[0], "gates", {}))


def counted(patch) -> list[int]:
    """The layers whose router runs from now on, in order."""
    seen, routers = [], patch.methods[0].routers
    for layer, router in routers.layers.items():
        router.register_forward_hook(lambda *_, layer=int(layer): seen.append(layer))
    return seen
