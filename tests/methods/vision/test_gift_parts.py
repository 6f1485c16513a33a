"""The two stages of gift on numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from attnpatch.methods.vision.emphasis import emphasised
from attnpatch.methods.vision.gaze import positive_shift, salience_factors, saliency
from attnpatch.methods.vision.gift import GIFT
from attnpatch.methods.vision.known import MODELS
from attnpatch.methods.vision.reading import Reading

IMAGE = torch.tensor([[True, True, True]])


def test_factors_of_three_tokens():
    w = 1 + salience_factors(torch.tensor([[0.0, 0.5, 1.0]]), IMAGE, alpha=5.0, deviations=3.0)
    assert torch.allclose(w, torch.tensor([[1.0, 12.1825, 148.4132]]), atol=1e-3)


def test_factors_are_relative_to_the_image():
    s = torch.tensor([[0.0, 2.0, 3.0, 4.0, 0.0], [0.1, 0.1, 0.1, 0.0, 0.0]])
    image = torch.tensor([[False, True, True, True, False], [True, True, True, False, False]])
    w = 1 + salience_factors(s, image, alpha=2.0, deviations=3.0)
    assert torch.allclose(w[0].log(), torch.tensor([0.0, 0.0, 1.0, 2.0, 0.0]), atol=1e-5)
    assert w[1].tolist() == [1.0] * 5, "the same saliency everywhere singles nothing out"
    nothing = torch.zeros_like(s)
    assert torch.equal(salience_factors(nothing, torch.zeros_like(image), alpha=2.0, deviations=3.0), nothing)


def test_an_outlier_is_clamped():
    s = torch.tensor([[0.0] * 99 + [100.0]])
    s[0, 0] = 5.0
    mean, deviation = s.mean(), s.std(correction=0)
    w = 1 + salience_factors(s, torch.ones_like(s, dtype=torch.bool), alpha=1.0, deviations=3.0)
    assert torch.allclose(w[0, 0].log(), 5 / (mean + 3 * deviation), atol=1e-6)
    assert torch.allclose(w[0, 99], torch.tensor(1.0).exp())


def test_attention_that_falls_is_no_shift():
    weights = torch.tensor([[0.5, 0.1], [0.2, 0.4], [0.3, 0.3]]).view(1, 1, 3, 2)
    both = positive_shift(weights, torch.tensor([[1.0, 1.0]]))
    assert torch.allclose(both, torch.tensor([[[0.1, 0.3]]]))
    first = positive_shift(weights, torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(first, torch.tensor([[[0.0, 0.3]]]))


def test_saliency_is_of_the_heads_that_shift_most():
    shift = torch.tensor([[4.0, 2.0, 50.0], [1.0, 1.0, 90.0], [0.0, 8.0, 0.0]])[None]
    image = torch.tensor([[True, True, False]])  # what happens off the image ranks no head
    assert saliency(shift, image, 0.67).tolist() == [[4.0, 10.0, 0.0]]
    assert saliency(shift, image, 0.5).tolist() == [[0.0, 8.0, 0.0]]


def parts(w: tuple[float, float]) -> torch.Tensor:
    """Keys: a text token, two image tokens, two tokens of the question."""
    more = [0.0, *(value - 1 for value in w), 0.0, 0.0]
    return torch.tensor([[[0.0, 1, 1, 0, 0], more, [0.0, 0, 0, 1, 1]]])


HEADS = torch.tensor([[0.1, 0.3, 0.4, 0.1, 0.1], [0.5, 0.1, 0.1, 0.1, 0.2]]).view(1, 2, 1, 5)


def test_image_and_question_grow_by_the_same_factor_and_rows_sum_to_one():
    found = emphasised(HEADS, parts((2.0, 3.0)), beta=1.0, share=0.5)[0, :, 0]
    r = (0.3 * 2 + 0.4 * 3) / 0.7
    image = torch.tensor([0.1, 0.6, 1.2, 0.1, 0.1])
    question = torch.tensor([0.5, 0.1, 0.1, 0.1 * r, 0.2 * r])
    assert torch.allclose(found, torch.stack([image / image.sum(), question / question.sum()]), atol=1e-6)
    assert torch.allclose(found.sum(-1), torch.ones(2), atol=1e-6)


def test_a_head_in_both_sets_gets_both_factors():
    found = emphasised(HEADS[:, :1], parts((2.0, 3.0)), beta=0.5, share=0.5)[0, 0, 0]
    r = 0.5 * (0.3 * 2 + 0.4 * 3) / 0.7
    expected = torch.tensor([0.1, 0.6, 1.2, 0.1 * r, 0.1 * r])
    assert torch.allclose(found, expected / expected.sum(), atol=1e-6)


def test_a_larger_factor_never_lowers_a_token_beside_other_image_tokens():
    weights = torch.randn(3, 4, 2, 5).softmax(-1)
    low = emphasised(weights, parts((2.0, 3.0)).expand(3, -1, -1), beta=1.0, share=0.5)
    high = emphasised(weights, parts((2.5, 3.0)).expand(3, -1, -1), beta=1.0, share=0.5)
    before, after = low[..., 1] / low[..., 2], high[..., 1] / high[..., 2]
    assert (after >= before - 1e-6).all()
    assert (after > before * 1.2).any()


def test_a_row_that_sees_no_image_keeps_its_weights():
    weights = HEADS.clone()
    weights[..., 1:3] = 0
    found = emphasised(weights, parts((2.0, 3.0)), beta=1.0, share=0.5)
    assert torch.allclose(found, weights)
    # A layer whose window has left image and question behind.
    image = torch.tensor([[True, True, False]])
    reading = Reading(image, question=[[2]], content=[[2]])
    assert torch.equal(emphasised(HEADS, reading.parts_at(3, HEADS), beta=1.0, share=0.5), HEADS)


def test_parts_of_a_reading_at_any_keys():
    reading = Reading(torch.tensor([[True, False]]), question=[[1]], content=[[1]])
    reading.parts.values[:, 1, 0] = 4.0
    found = reading.parts_at(1, torch.ones(3, dtype=torch.float64))
    assert found.tolist() == [[[0, 0, 0], [0, 0, 0], [1, 0, 0]]]
    assert found.dtype == torch.float64
    assert reading.parts_at(0, torch.ones(2)).tolist() == [[[1, 0], [4, 0], [0, 1]]]


@pytest.mark.parametrize(
    ("name", "read", "changed", "alpha"),
    [
        ("LLaVA-1.5-7B", 11, range(12, 23), 5.0),
        ("LLaVA-1.5-13B", 10, range(14, 21), 5.0),
        ("Qwen2-VL-7B", 14, range(5, 19), 4.0),
    ],
)
def test_published_settings_are_known(name, read, changed, alpha):
    known = next(model for model in MODELS if name in model.name)
    first = {key: value if not isinstance(value, tuple) else value[-1] for key, value in known.shape.items()}
    config = SimpleNamespace(**first, vocab_size=known.vocab[0])

    def met(**options) -> GIFT:
        gift = GIFT(content="all", **options)
        gift.meet(SimpleNamespace(text_config=config, wrappers=(), module=None))
        return gift

    gift = met()
    layers = [layer for layer in range(config.num_hidden_layers) if gift.enhanced(layer)]
    assert (gift.saliency_layer, layers, gift.alpha) == (read, list(changed), alpha)
    assert met(alpha=2.0, saliency_layer=3).alpha == 2.0
    assert met(alpha=2.0, saliency_layer=3).saliency_layer == 3
