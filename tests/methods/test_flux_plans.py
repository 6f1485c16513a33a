"""Fixed plans: random ones by their seed, rankings against their formulas and on a model that was really trained."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import attnpatch
from attnpatch import AttnPatchError, sandbox
from attnpatch.methods.flux import plans
from attnpatch.patching.sites import inspect_model
from tests import zoo
from tests.methods.flux_cases import WINDOW, gates_of, logits, prompt
from tests.snapshots import structure

PROMPTS = [prompt(20, 1)["input_ids"][0].tolist(), prompt(33, 2)["input_ids"][0].tolist()]


def sites_of(model):
    text = inspect_model(model)
    return text.base, list(text.sites)


def chosen(plan, sites, seed=0, scores=None) -> list[bool]:
    return list(plans.resolve(plan, sites, seed=seed, scores=scores).values())


@pytest.mark.parametrize("omega, full", [(0, 6), (0.1, 5), (0.34, 3), (0.5, 3), (0.66, 2), (5 / 6, 1), (1, 0)])
def test_random_plans_have_the_asked_share(omega, full):
    sites = sites_of(zoo.build("gemma3_text"))[1]
    drawn = {tuple(chosen(f"random:{omega}", sites, seed)) for seed in range(20)}
    assert {sum(plan) for plan in drawn} == {full}
    assert (len(drawn) > 1) == (full not in (0, 6))
    assert chosen(f"random:{omega}", sites, 3) == chosen(f"random:{omega}", sites, 3)


def test_a_seed_draws_the_same_plan_everywhere():
    sites = sites_of(zoo.build("gemma3_text"))[1]
    assert [chosen("random:0.5", sites, seed) for seed in (0, 1)] == [
        [False, True, True, False, False, True],
        [False, False, True, True, True, False],
    ]


def test_written_plans():
    sites = sites_of(zoo.build("gemma3_text"))[1]
    expected = [True, False, False, True, True, False]
    assert chosen("fssffs", sites) == chosen([1, 0, 0, 1, 1, 0], sites) == expected
    assert chosen("full", sites) == [True] * 6
    assert chosen("sparse", sites) == [False] * 6
    assert chosen("entropy", sites, scores=lambda kind: [3, 1, 2, 6, 5, 4]) == [False, False, False, True, True, True]
    model = zoo.build("gemma3_text")
    with attnpatch.apply(model, "flux", plan="fs", layers=[0, 5], **WINDOW) as patch:
        logits(model, **prompt())
        assert gates_of(patch) == {0: [True], 5: [False]}


def test_entropy_against_the_formula():
    model = zoo.build("llama")
    base, sites = sites_of(model)
    expected = np.zeros(2)
    for ids in PROMPTS:
        with torch.no_grad():
            states = base(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for layer in range(2):
            x = states[layer][0].double().numpy()
            eigenvalues = np.linalg.eigvalsh(x @ x.T / np.trace(x @ x.T))[::-1][: plans.EIGENVALUES]
            eigenvalues = eigenvalues[eigenvalues > 1e-12]
            expected[layer] += -(eigenvalues * np.log(eigenvalues)).sum() / len(PROMPTS)
    found = plans.entropies(base, sites, PROMPTS)
    assert found == pytest.approx(expected, rel=1e-4)
    with attnpatch.apply(model, "flux", plan="entropy:0.5", prompts=PROMPTS, **WINDOW) as patch:
        assert patch.methods[0].plan == {0: found[0] > found[1], 1: found[1] > found[0]}


@pytest.mark.parametrize("training", [False, True])
def test_errors_against_a_layer_made_sparse_by_hand(training):
    model = zoo.build("gpt2")  # has dropout
    assert model.config.resid_pdrop > 0
    base, sites = sites_of(model)
    expected = []
    for layer in range(2):
        shares = []
        for ids in PROMPTS:
            with torch.no_grad():
                stock = base(torch.tensor([ids])).last_hidden_state[:, -1]
                with attnpatch.apply(model, "sliding", window=4, sink=1, layers=[layer]):
                    sparse = base(torch.tensor([ids])).last_hidden_state[:, -1]
            shares.append(float((sparse - stock).norm() / stock.norm()))
        expected.append(sum(shares) / len(shares))
    model.train(training)
    base.h[0].eval()
    before = structure(model)
    modes = [module.training for module in model.modules()]
    with attnpatch.apply(model, "flux", plan="calibrate:0.5", prompts=PROMPTS, **WINDOW) as patch:
        assert patch.methods[0].plan == {0: expected[0] > expected[1], 1: expected[1] > expected[0]}
        assert patch.report().calls == 0
        assert len(attnpatch.patches(model)) == 1
    assert modes == [module.training for module in model.modules()]
    assert structure(model) == before
    found = plans.errors(
        base, sites, PROMPTS, lambda index: attnpatch.apply(model, "sliding", window=4, sink=1, layers=[index])
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_ranking_is_not_counted_as_sequences_of_other_patches():
    model = zoo.build("gemma3_text")
    with attnpatch.apply(model, "stochastic", window=2, layers=[5]) as patch:
        expected = logits(model, **prompt())
        patch.reset()
        with attnpatch.apply(model, "flux", plan="calibrate:0", prompts=PROMPTS, layers=[0, 1], **WINDOW):
            assert torch.equal(expected, logits(model, **prompt()))
        patch.reset()
        with pytest.raises(AttnPatchError, match="knows 0"):
            attnpatch.apply(model, "flux", plan="calibrate", prompts=[*PROMPTS, [500, 5]], layers=[0, 1])
        assert torch.equal(expected, logits(model, **prompt()))


def test_calibration_finds_the_layers_that_retrieve():
    model, _ = sandbox.load("text")
    needles = [sample for length in (256, 512) for sample in sandbox.samples("needle", length, 4, stream="dev")]
    prompts = [sample.input_ids[: sample.answer_positions[0]] for sample in needles]
    base, sites = sites_of(model)
    found = plans.errors(
        base, sites, prompts,
        lambda index: attnpatch.apply(model, "sliding", window=32, sink=4, layers=[index]),
    )  # fmt: skip
    assert set(np.argsort(found)[-2:]) == {2, 4}
    with attnpatch.apply(model, "flux", plan="calibrate:0.8", prompts=prompts, local=32, sink=4) as patch:
        kept = [layer for layer, full in patch.methods[0].plan.items() if full]
    assert kept == sorted(sorted(range(len(sites)), key=lambda index: -found[index])[: len(kept)])
    assert len(kept) == int(0.2 * len(sites) + 1e-9)


def test_prompts_from_a_file(tmp_path):
    model, file = zoo.build("llama"), tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"input_ids": ids, "task": "any"}) for ids in PROMPTS) + "\n\n")
    assert plans.prompts_from(str(file)) == PROMPTS
    with attnpatch.apply(model, "flux", plan="entropy", prompts=str(file)) as patch:
        from_file = patch.methods[0].plan
    with attnpatch.apply(model, "flux", plan="entropy", prompts=PROMPTS) as patch:
        assert patch.methods[0].plan == from_file


@pytest.mark.parametrize(
    "text, match",
    [
        (None, "cannot be read"),
        ("", "two or more token ids"),
        ('{"input_ids": [5, 6]}\n{"input_ids": [5,', "cannot be read"),
        ('{"ids": [5, 6]}', "'input_ids'"),
        ("[5, 6]", "cannot be read"),
        ('{"input_ids": "words"}', "two or more token ids"),
        ('{"input_ids": [5, 6.5]}', "two or more token ids"),
        ('{"input_ids": [5, true]}', "two or more token ids"),
    ],
)
def test_files_that_cannot_be_read_change_nothing(tmp_path, text, match):
    model, file = zoo.build("llama"), tmp_path / "prompts.jsonl"
    if text is not None:
        file.write_text(text)
    before = structure(model)
    with pytest.raises(AttnPatchError, match=match):
        attnpatch.apply(model, "flux", plan="calibrate", prompts=str(file))
    assert structure(model) == before
