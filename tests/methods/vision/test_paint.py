"""paint against dense attention with the formula written out, its choice of tokens by hand, and its checks."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

import attnpatch
from attnpatch.methods.vision.paint import PAINT, choose, highest
from attnpatch.patching.edits import RowsAt
from attnpatch.patching.tower import TowerRead
from tests import zoo
from tests.methods.vision.dense import Dense
from tests.methods.vision.prompts import FAMILIES
from tests.snapshots import generated_logits, same, structure

SMALL = {"layers": "0:", "no_cls": "received"}


class DensePAINT(Dense):
    """The definition, loop by loop; what the vision tower holds is tested where it is read."""

    def __init__(self, alpha: float, beta: float, top_ratio: float) -> None:
        super().__init__(self.boosted)
        self.alpha, self.beta, self.top_ratio = alpha, beta, top_ratio

    tower_reads = property(lambda self: {TowerRead(0, "either"), TowerRead(-2, "either")})

    def begin(self, forward):
        tower = forward.given.tower
        factors = []
        for local, summary in zip(*(tower.entries[TowerRead(n, "either")].copy() for n in (0, -2)), strict=True):
            known = [j for j in range(len(local)) if local[j] == local[j]]
            ordered = sorted(known, key=lambda j: (-float(local[j]), j))
            factor = torch.zeros(len(local))
            factor[ordered[: -(-int(len(known) * self.top_ratio * 100) // 100)]] = self.alpha
            values = torch.tensor([float(summary[j]) for j in known])
            low, high = values.quantile(0.25), values.quantile(0.75)
            for j in known:
                if summary[j] > high + 1.5 * (high - low):
                    factor[j] = self.beta
            factors.append(factor)
        self.factors = tower.placed(factors, forward.images.mask)

    def boosted(self, scores, call):
        factors = self.factors[:, call.key_offset : call.key_offset + scores.shape[-1]]
        factors = torch.nn.functional.pad(factors, (0, scores.shape[-1] - factors.shape[1]))
        raised = scores + (factors[:, None, None] * scores.abs()).nan_to_num(0)
        last = torch.zeros(scores.shape[2], dtype=torch.bool)
        last[-1] = True
        return torch.where(last[:, None], raised.softmax(-1), scores.softmax(-1))


@pytest.fixture(scope="module")
def pictured():
    """LLaVA with 24 x 24 patches, as LLaVA-1.5 has them; three tower layers, so that the second to last is one."""
    config = zoo.VLM_CONFIGS["llava"]()
    config.vision_config.image_size, config.vision_config.num_hidden_layers = 336, 3
    config.image_seq_length = 576
    config.text_config.max_position_embeddings = 1024
    torch.manual_seed(0)
    model = tf.AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():  # sharper, so that some patch stands out
        for layer in model.model.vision_tower.encoder.layers:
            layer.self_attn.q_proj.weight *= 40
            layer.self_attn.k_proj.weight *= 40
    ids = torch.tensor([[1] + [zoo.IMAGE] * 576 + [5, 6, 7, 8]])
    return model, {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 336, 336),
    }


def factors_of(model, inputs, **options):
    """The factor of each token `[B, T]` as paint sets it for a prompt."""
    method = PAINT(**options)
    found = []
    begin = method.begin

    def kept(forward):
        begin(forward)
        found.append(forward.state[method, "factors"].values[:, 0, 0])

    method.begin = kept
    with attnpatch.apply(model, method), torch.no_grad():
        model(**inputs)
    return found[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_dense_attention(family):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    with attnpatch.apply(model, DensePAINT(0.7, 0.3, 0.5)):
        expected = generated_logits(model, inputs)
    with attnpatch.apply(model, "paint", top_ratio=0.5, **SMALL):
        found = generated_logits(model, inputs)
    assert torch.equal(expected[0], found[0])
    assert torch.allclose(expected[1], found[1], atol=1e-4)
    assert not torch.allclose(found[1], generated_logits(model, inputs)[1], atol=1e-6)


def test_agrees_with_dense_attention_on_a_whole_picture(pictured):
    model, inputs = pictured
    with attnpatch.apply(model, DensePAINT(0.7, 0.3, 0.25)) as dense:
        expected = generated_logits(model, inputs)
    with attnpatch.apply(model, "paint", layers="0:"):
        found = generated_logits(model, inputs)
    factors = dense.methods[0].factors
    assert (factors == 0.7).any()
    assert (factors == 0.3).any()
    assert torch.allclose(expected[1], found[1], atol=1e-4)


# Check 2


def test_a_quarter_of_576_tokens_is_local_and_no_token_is_both(pictured):
    model, inputs = pictured
    factors = factors_of(model, inputs, alpha=1.0, beta=0.25, layers="0:")[0, 1:577]
    local, summary = factors == 1.0, factors == 0.25
    assert int((factors != 0).sum()) == int(local.sum() + summary.sum())  # none got 1.25
    assert int(highest(torch.randn(576), 0.25).sum()) == 144
    only_local = factors_of(model, inputs, alpha=1.0, beta=0.0, layers="0:")[0, 1:577] == 1.0
    assert torch.equal(only_local, local)
    assert summary.any()
    assert 144 - int(summary.sum()) <= int(local.sum()) <= 144


def test_ties_go_to_the_lowest_index():
    assert highest(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 0.55).tolist() == [False, True, True, True, False]
    assert highest(torch.ones(8), 0.3).tolist() == [True] * 3 + [False] * 5


def test_tokens_without_a_patch_are_never_chosen():
    nan = torch.nan
    local, summary = torch.tensor([nan, 1.0, 2.0, nan, 0.0]), torch.tensor([nan, 1.0, 1.0, nan, 1.0])
    chosen = choose(local, summary, None, 1.0, 0.0)
    assert chosen.local.tolist() == [False, True, True, False, True]
    assert not chosen.summary.any()


# Check 6


def test_outliers_by_the_distance_of_the_quartiles():
    scores = torch.tensor([1.0, 1.0, 1.0, 1.0, 10.0])
    chosen = choose(torch.tensor([5.0, 0.0, 0.0, 0.0, 9.0]), scores, None, 0.4, 0.0)
    assert chosen.summary.tolist() == [False] * 4 + [True]
    assert chosen.local.tolist() == [True] + [False] * 4  # the summary token is taken out


def test_spatial_tokens_are_local_unless_they_are_summary():
    summary = torch.tensor([1.0, 1.0, 1.0, 1.0, 10.0])
    chosen = choose(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), summary, torch.tensor([0.0, 0, 0, 8, 9]), 0.2, 0.4)
    assert chosen.local.tolist() == [True, False, False, True, False]
    assert chosen.summary.tolist() == [False] * 4 + [True]


# Checks 3, 5 and 8


class Seen(attnpatch.Method):
    """The innermost method: keeps what the edits above it make of its rows."""

    name = "seen"
    needs_images = True

    def attend(self, call, inner):
        (edit,) = call.edits
        scores = torch.full((1, call.query.shape[1], 1, call.key.shape[2]), -2.0)
        scores[:, 2:], scores[..., -2:] = 2.0, -torch.inf
        self.raised, _ = edit.change(scores, RowsAt(call.end - 1))
        return inner(call)


def raised(**options):
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    seen = Seen()
    with attnpatch.apply(model, [seen, ("paint", {**SMALL, "top_ratio": 1.0, **options})]), torch.no_grad():
        model(**inputs)
    return seen.raised


def test_scores_are_raised_whatever_their_sign_and_hidden_ones_stay_hidden():
    found = raised(alpha=0.7)
    assert torch.allclose(found[:, :2, 0, 1:5], torch.tensor(-0.6))
    assert torch.allclose(found[:, 2:, 0, 1:5], torch.tensor(3.4))
    assert torch.equal(found[0, :, 0, 0], torch.tensor([-2.0, -2.0, 2.0, 2.0]))
    assert bool((found[..., -2:] == -torch.inf).all())
    assert torch.allclose(found.softmax(-1).sum(-1), torch.ones(()))


def test_one_factor_per_head():
    found = raised(alpha=0.5, head_scale=(0.0, 1.0, 2.0, 1.0))
    assert found[0, :, 0, 2].tolist() == [-2.0, -1.0, 4.0, 3.0]
    with pytest.raises(attnpatch.UnsupportedModelError, match="head_scale has 3 factors, but layer 0 has 4 query"):
        attnpatch.apply(zoo.build("llava"), "paint", head_scale=(1.0, 1.0, 1.0), **SMALL)


# Check 4


def test_only_the_last_row_of_the_prompt_changes():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with torch.no_grad():
        stock = model(**inputs).logits
        with attnpatch.apply(model, "paint", layers=(1,), alpha=5.0):
            found = model(**inputs).logits
    assert torch.equal(stock[:, :-1], found[:, :-1])
    assert not torch.allclose(stock[:, -1], found[:, -1], atol=1e-5)


# Check 1 and what is refused


def test_without_boosts_it_is_stock_and_the_layers_are_the_model_s_from_the_third_on():
    config = zoo.VLM_CONFIGS["llava"]()
    config.text_config.num_hidden_layers = 4
    torch.manual_seed(0)
    model, inputs = tf.AutoModelForImageTextToText.from_config(config).eval(), zoo.image_prompt("llava")
    stock, before = generated_logits(model, inputs), structure(model)
    with attnpatch.apply(model, "paint", alpha=0.0, beta=0.0) as patch:
        assert {name.split(".")[1] for name in patch.site_names} == {"2", "3"}
        assert same(stock, generated_logits(model, inputs))
    assert structure(model) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"top_ratio": 1.5}, "top_ratio=1.5"),
        ({"no_cls": "recieved"}, "no_cls='recieved'.*'error' or 'received'"),
        ({"vit_layers": (0, 9)}, "no layer 9"),
        ({"layers": "7"}, "layer 7 does not exist"),
        ({"topratio": 0.5}, "Did you mean 'top_ratio'"),
    ],
)
def test_options_out_of_range(options, message):
    model = zoo.build("llava")
    before = structure(model)
    with pytest.raises(attnpatch.AttnPatchError, match=message):
        attnpatch.apply(model, "paint", **{**SMALL, **options})
    assert structure(model) == before


def test_a_tower_without_class_token_is_refused():
    with pytest.raises(attnpatch.UnsupportedModelError, match=r"no class token.*no_cls='received'"):
        attnpatch.apply(zoo.build("gemma3"), "paint", layers="0:")


def test_an_image_in_a_later_turn_is_refused():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with attnpatch.apply(model, "paint", **SMALL) as patch, torch.no_grad():
        cache = model(**inputs).past_key_values
        ids = torch.cat([inputs["input_ids"]] * 2, 1)
        more = {**inputs, "past_key_values": cache, "attention_mask": torch.ones_like(ids)}
        with patch.prompt(ids.shape[1]), pytest.raises(attnpatch.UnsupportedCallError, match="after the first prompt"):
            model(**more)
