"""guidance, vcd and icd against their formulas, with logits that plain `generate` calls give for each prompt alone."""

from __future__ import annotations

import pytest
import torch

from attnpatch import decoding
from attnpatch.decoding.noise import kept_share, noised
from tests import zoo
from tests.decoding.cases import FAMILIES, FULL, STEPS, logits_along, text_of, written
from tests.methods.vision.prompts import batch


def ruled_out(lp, share):
    return lp < lp.amax(-1, keepdim=True) + torch.tensor(share).log()


def guided(z, z_no, gamma=3.0, cut=0.02):
    lp, ln = z.log_softmax(-1), z_no.log_softmax(-1)
    return (gamma * (lp - ln) + ln).masked_fill(ruled_out(lp, cut), -torch.inf)


def contrasted(z, z_noised, alpha=2.0, beta=0.02):
    return ((1 + alpha) * z - alpha * z_noised).masked_fill(ruled_out(z, beta), -torch.inf)


def noisy(row: dict) -> dict:
    grid = row.get("image_grid_thw")
    patches = None if grid is None else grid.prod(-1).tolist()
    pixels = noised(row["pixel_values"], kept_share(500), 0, patches=patches, frames=1 if grid is None else 2)
    return {**row, "pixel_values": pixels}


def disturbed(row: dict) -> dict:
    ids = row["input_ids"][0].tolist()
    stop = max(at for at, token in enumerate(ids) if token == zoo.IMAGE) + 1
    new = torch.tensor([[*ids[:stop], 11, 12, *ids[stop:]]])
    types = {name: (new == zoo.IMAGE).long() for name in ("token_type_ids", "mm_token_type_ids") if name in row}
    return {**row, "input_ids": new, "attention_mask": torch.ones_like(new), **types}


CONTRASTS = {
    "guidance": ({"gamma": 3.0, "cut": 0.02}, text_of, guided),
    "vcd": ({"alpha": 2.0, "beta": 0.02}, noisy, contrasted),
    "icd": ({"alpha": 2.0, "beta": 0.02, "prefix_ids": [11, 12]}, disturbed, contrasted),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CONTRASTS)
def test_every_row_of_a_batch_is_the_formula_of_two_runs_of_its_prompt_alone(name, family):
    options, second, formula = CONTRASTS[name]
    model = zoo.build(family)
    together, rows = batch(family, text_row=True)
    out = decoding.generate(model, together, name, **options, **STEPS, **FULL)
    scores, first = torch.stack(out.scores, 1), torch.stack(out.logits, 1)
    banned = STEPS["suppress_tokens"]
    for number, row in enumerate(rows[:2]):
        tokens = written(out, together)[number]
        z = first[number].index_fill(-1, torch.tensor([*banned]), -torch.inf)
        z[:, 2] = -torch.inf  # no end before min_new_tokens
        expected = formula(z, logits_along(model, second(row), tokens))
        assert torch.equal(scores[number].isneginf(), expected.isneginf())
        assert torch.allclose(scores[number], expected, atol=1e-4), (
            (scores[number] - expected).abs().nan_to_num().max()
        )
        assert torch.allclose(first[number], logits_along(model, row, tokens), atol=1e-4)
        assert not torch.allclose(scores[number], formula(z, z), atol=1e-4), (
            "the second branch says nothing of its own"
        )
    stock = first[2].index_fill(-1, torch.tensor([*banned, 2]), -torch.inf)
    assert torch.equal(scores[2], stock), "a prompt without image is left as it is"


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("name", ["guidance", "vcd"])
def test_beams_are_scored_by_the_contrast_and_the_second_branch_follows_them(name, family):
    options, second, formula = CONTRASTS[name]
    model = zoo.build(family)
    together, rows = batch(family)
    beams = {**STEPS, "num_beams": 3, "output_scores": True, "return_dict_in_generate": True}
    out = decoding.generate(model, together, name, **options, **beams)
    plain = model.generate(**together, **beams)
    assert not torch.equal(out.sequences, plain.sequences)
    moved = False
    for number, row in enumerate(rows):
        tokens = written(out, together)[number]
        z = logits_along(model, row, tokens).log_softmax(-1)
        z[:, [*STEPS["suppress_tokens"], 2]] = -torch.inf
        step = formula(z, logits_along(model, second(row), tokens)).log_softmax(-1)
        total = step.gather(1, tokens[:, None]).sum() / len(tokens)
        assert torch.allclose(out.sequences_scores[number], total, atol=1e-4)
        moved |= bool((out.beam_indices[number] != 3 * number).any())
    assert moved, "no beam was ever continued by another row, so this shows nothing"


def test_several_samples_of_a_prompt_are_rows_of_the_second_branch():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    torch.manual_seed(0)
    settings = {**STEPS, "do_sample": True, "num_return_sequences": 3, "top_k": 0}
    out = decoding.generate(model, inputs, "guidance", gamma=3.0, cut=0.0, **settings, **FULL)
    assert len({tuple(row) for row in written(out, inputs).tolist()}) == 3
    last = torch.stack(out.scores)[-1]
    for number, tokens in enumerate(written(out, inputs)):
        z = torch.stack(out.logits)[-1, number]
        z[[*STEPS["suppress_tokens"], 2]] = -torch.inf
        expected = guided(z[None], logits_along(model, text_of(inputs), tokens)[-1:], cut=0.0).log_softmax(-1)
        assert torch.allclose(last[number], expected[0], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_neutral_is_stock(family):
    model = zoo.build(family)
    together, _ = batch(family, text_row=True)
    stock = model.generate(**together, **STEPS, **FULL)
    for name in ("vcd", "icd", "guidance"):
        options = decoding.companion_class(name).neutral_options
        out = decoding.generate(model, together, name, **options, **STEPS, **FULL)
        assert torch.equal(out.sequences, stock.sequences)
        expected = torch.stack(stock.scores)
        if name == "guidance":
            expected[:, :2] = expected[:, :2].log_softmax(-1)
        assert torch.equal(torch.stack(out.scores), expected)


def test_an_unnoised_image_changes_no_choice():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    stock = model.generate(**inputs, **STEPS)
    for alpha in (0.5, 1.0, 30.0):
        assert torch.equal(decoding.generate(model, inputs, "vcd", alpha=alpha, noise_step=0, **STEPS), stock)
    assert torch.equal(decoding.generate(model, inputs, "guidance", gamma=1.0, **STEPS), stock)


def test_formulas_by_hand():
    image, other = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0.3, 0.6, 0.1]]).log()
    guidance = decoding.build("guidance", gamma=2.0, cut=0.2).combine(image + 5, other - 3)  # logits, not normalised
    assert torch.allclose(guidance[0, :2].exp(), torch.tensor([0.6 * 0.6 / 0.3, 0.3 * 0.3 / 0.6]))
    assert guidance[0, 2] == -torch.inf  # .1 < .2 * .6
    vcd = decoding.build("vcd", alpha=1.0, beta=0.2).combine(
        torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1.0, 3, 0]])
    )
    assert vcd.tolist() == [[3.0, -1.0, -torch.inf]]  # e^-2 < .2
    banned = torch.tensor([[1.0, -torch.inf, 0.5]])
    for companion in (decoding.build("vcd", alpha=0.0, beta=0.0), decoding.build("guidance", gamma=1.0, cut=0.0)):
        combined = companion.combine(banned, torch.tensor([[0.0, 5.0, 0.0]]))
        assert combined.isneginf().tolist() == [[False, True, False]]
