"""The loss of a pack against the losses of its samples alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from attnpatch.training import objective
from attnpatch.training.objective import labels_of, weighted_nll
from attnpatch.training.samples import Pack, Sample

VOCABULARY, WIDTH = 23, 6


def sample(seed: int, length: int, zero: slice = slice(0, 0)) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
    weights = [1.0 + index % 3 for index in range(length)]
    weights[zero] = [0.0] * len(weights[zero])
    return Sample(tuple(ids), tuple(weights), 1, "a", f"s{seed}")


PACK = Pack((sample(0, 7), sample(1, 2, slice(0, 2)), sample(2, 11, slice(2, 6)), sample(3, 5)))
HEAD = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(9))


def head(rows: torch.Tensor) -> torch.Tensor:
    return rows @ HEAD.T


def states() -> torch.Tensor:
    return torch.randn(1, PACK.tokens, WIDTH, generator=torch.Generator().manual_seed(4))


def tokens_of(pack: Pack) -> torch.Tensor:
    return torch.tensor([[token for one in pack.samples for token in one.input_ids]])


def alone(hidden: torch.Tensor) -> list[torch.Tensor]:
    """The weighted losses of the samples, each computed from its own states only."""
    losses = []
    for one, own in zip(PACK.samples, hidden[0].split(PACK.lengths), strict=True):
        labels, weights = torch.tensor(one.input_ids[1:]), torch.tensor(one.weights[1:])
        losses.append((functional.cross_entropy(head(own[:-1]), labels, reduction="none") * weights).sum())
    return losses


@pytest.mark.parametrize("chunk", [2048, 4, 1])
def test_it_is_the_sum_of_the_samples_alone(monkeypatch, chunk):
    monkeypatch.setattr(objective, "CHUNK", chunk)
    hidden = states().requires_grad_()
    found = weighted_nll(hidden, head, tokens_of(PACK), PACK)
    (gradient,) = torch.autograd.grad(found, hidden)
    expected = sum(alone(hidden))
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    (wanted,) = torch.autograd.grad(expected, hidden)
    assert torch.allclose(gradient, wanted, atol=1e-5)


def test_no_more_logits_than_a_chunk(monkeypatch):
    monkeypatch.setattr(objective, "CHUNK", 3)
    sizes = []

    def counted(rows):
        sizes.append(len(rows))
        return head(rows)

    weighted_nll(states(), counted, tokens_of(PACK), PACK)
    assert max(sizes) == 3
    assert sum(sizes) == len(labels_of(PACK)[0])


def test_a_sample_changes_no_other_samples_loss():
    """Other states and tokens of the third sample change its own part of the loss and nothing else."""
    other = Pack((*PACK.samples[:2], sample(77, 11, slice(2, 6)), PACK.samples[3]))
    hidden, third = states(), slice(9, 20)
    changed = hidden.clone()
    changed[:, third] += 1
    before, after = (
        weighted_nll(given, head, tokens_of(pack), pack)
        - weighted_nll(given[:, third], head, tokens_of(pack)[:, third], Pack((pack.samples[2],)))
        for given, pack in ((hidden, PACK), (changed, other))
    )
    assert float(after) == pytest.approx(float(before), rel=1e-5)


def test_labels():
    places, weights = labels_of(PACK)
    starts = {0, 7, 9, 20}
    assert starts.isdisjoint(places)
    assert places[:6] == [1, 2, 3, 4, 5, 6]
    assert not {8, 11, 12, 13, 14} & set(places)  # weight 0
    assert weights[:6] == [2.0, 3.0, 1.0, 2.0, 3.0, 1.0]
    assert len(places) == 6 + 0 + 6 + 4


def test_a_pack_without_labels():
    pack = Pack((sample(1, 4, slice(0, 4)),))
    hidden = torch.randn(1, 4, WIDTH, requires_grad=True)
    loss = weighted_nll(hidden, head, tokens_of(pack), pack)
    loss.backward()
    assert float(loss.detach()) == 0
