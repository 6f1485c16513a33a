"""Sinks in the residual stream: planted ones are labelled, and looking changes nothing."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.analysis.sinks import find_sinks, residual_trace, sink_score
from tests import zoo
from tests.methods.vision import planted
from tests.snapshots import structure


def states(layers: int = 24, tokens: int = 8, size: int = 64, start: int = 2, end: int = 22) -> torch.Tensor:
    """Noise `[L+1, T, D]` in which token 0 carries 100 in dims 3 and 7 of the layers start..end-1."""
    found = torch.randn(layers + 1, tokens, size, generator=torch.Generator().manual_seed(0))
    found[start:end, 0, [3, 7]] += 100
    return found


def found_in(h: torch.Tensor, **options):
    return find_sinks(h.norm(dim=-1), torch.cosine_similarity(h, h[:, :1], dim=-1), **options)


def test_start_and_end_are_those_planted():
    found = found_in(states(start=2, end=7))
    assert (found.start, found.end, found.reason) == (2, 7, None)
    assert found_in(states(start=5, end=25)).end == 25  # to the end of 24 layers


@pytest.mark.parametrize("held, label", [(22, "bos_sink"), (6, "secondary"), (3, "noise"), (4, "noise")])
def test_labels_by_how_long_a_token_looks_like_the_first(held, label):
    h = states(start=1, end=25)
    h[2 : 2 + held, 5] = 0.3 * h[2 : 2 + held, 0]
    found = found_in(h)
    assert int(found.lasting[5]) == held
    assert found.labels == {0: "bos_sink", 5: label}
    longer = found_in(7.5 * h)  # directions do not depend on scale
    assert longer.labels == found.labels


def test_small_models_use_a_share_of_the_depth():
    h = states(layers=12, start=1, end=12)
    h[1:9, 5] = h[1:9, 0]
    assert found_in(h).labels[5] == "secondary"  # 8 of 12 layers; with a margin of 15 everything would be primary
    h[1:10, 5] = h[1:10, 0]
    assert found_in(h).labels[5] == "bos_sink"  # 9 >= 0.7 * 12
    assert found_in(h, primary_margin=2).labels[5] == "secondary"


def test_no_primary_sink_is_said():
    found = found_in(torch.randn(9, 4, 64, generator=torch.Generator().manual_seed(0)))
    assert (found.start, found.labels) == (None, {})
    assert "no primary sink" in found.reason


def test_a_trace_of_a_model_with_planted_sinks():
    model, inputs = planted.build(), zoo.image_prompt("llava")
    with planted.planted(model.model.language_model.layers, [0, 2]), torch.no_grad():
        stock = model(**inputs).logits
    before = structure(model)
    with planted.planted(model.model.language_model.layers, [0, 2]), torch.no_grad():
        trace = residual_trace(model, **inputs)
        assert torch.equal(model(**inputs).logits, stock)
    assert trace.norms.shape == trace.cosines.shape == (planted.LAYERS + 1, 1, inputs["input_ids"].shape[1])
    found = find_sinks(trace.norms[:, 0], trace.cosines[:, 0], first=trace.first[0])
    assert (found.start, found.end) == (planted.FROM, planted.UNTIL)
    assert found.labels == {0: "secondary", 2: "secondary"}  # five layers of nine
    assert structure(model) == before


def test_padding_on_the_left_changes_nothing():
    model, ids = planted.build(), torch.arange(3, 13)[None]
    padded = {
        "input_ids": torch.nn.functional.pad(ids, (4, 0)),
        "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), (4, 0)),
    }
    alone, beside = residual_trace(model, input_ids=ids), residual_trace(model, **padded)
    assert (alone.first, beside.first) == ((0,), (4,))
    assert torch.allclose(alone.norms, beside.norms[..., 4:], rtol=1e-4)
    assert torch.allclose(alone.cosines, beside.cosines[..., 4:], atol=1e-4)
    assert not beside.norms[..., :4].any()


def test_of_several_first_tokens_the_largest_is_taken():
    model = planted.build()
    ids = torch.tensor([[1, 5, 6, 1, 7, 8], [1, 5, 6, 9, 7, 8]])
    with planted.planted(model.model.language_model.layers, [3]):
        trace = residual_trace(model, input_ids=ids, bos_token_id=1)
        assert trace.first == (3, 0)
        assert torch.allclose(trace.cosines[:, 0, 3], torch.ones(planted.LAYERS + 1))
        assert residual_trace(model, input_ids=ids).first == (0, 0)


def test_sink_score_is_what_later_tokens_give():
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [0.2, 0.5, 0.3]])[None, None]
    assert torch.allclose(sink_score(weights), torch.tensor([[0.4, 0.5, 0.0]]))
    real = torch.tensor([[True, True, False]])
    assert torch.allclose(sink_score(weights, real), torch.tensor([[0.6, 0.0, 0.0]]))


def test_a_mask_that_is_none():
    with pytest.raises(attnpatch.AttnPatchError, match=r"\[batch, tokens\]"):
        residual_trace(zoo.build("llama"), input_ids=torch.ones(1, 3).long(), attention_mask=torch.ones(1, 1, 3, 3))
