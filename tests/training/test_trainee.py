"""The trainee: what gets a gradient, and that a pack is computed as its samples alone would be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from attnpatch.patching.errors import UnsupportedModelError
from attnpatch.training.problems import TrainingError
from attnpatch.training.recipe import Recipe
from attnpatch.training.samples import Pack, Sample
from attnpatch.training.trainee import Share, Trainee, check_head, shares_of
from tests.zoo import TEXT_CONFIGS, build

from .conftest import recipe
from .runs import FLUX


def sample(seed: int, length: int, task: str = "a") -> Sample:
    ids = torch.randint(3, 100, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Sample(tuple(ids), (1.0,) * length, length // 2, task, f"{task}#{seed}")


PACK = Pack((sample(0, 40), sample(1, 24, "b"), sample(2, 30)))
SOURCES = [
    {"task": task, "omega": omega, "sandbox": ["needle"], "lengths": [64]} for task, omega in (("a", 0.5), ("b", 1.0))
]


def settings(router: dict[str, Any] | None = None, lora: dict[str, Any] | None = None, **training: Any) -> Recipe:
    return recipe(
        method=FLUX if router is not None else {"name": "sliding", "options": {"window": 8}},
        router=None if router is None else {"pool": 4, "initializer_range": None, **router},
        lora=lora,
        data={"sources": SOURCES},
        training={"max_steps": 10, **training},
    )


def loss_of(trainee: Trainee, pack: Pack = PACK, step: int = 0) -> tuple[torch.Tensor, dict[str, Any]]:
    (share,) = shares_of([pack], step)
    return trainee(pack, share)


def gradients(trainee: Trainee) -> dict[str, torch.Tensor]:
    loss_of(trainee)[0].backward()
    return {name: parameter.grad for name, parameter in trainee.named_parameters()}


def stock_loss(model, pack: Pack) -> float:
    """Mean loss of the samples alone, by the model itself."""
    losses = []
    for one in pack.samples:
        tokens = torch.tensor([one.input_ids])
        with torch.no_grad():
            logits = model(tokens).logits[0, :-1].float()
        losses.append(functional.cross_entropy(logits, tokens[0, 1:], reduction="none"))
    return float(torch.cat(losses).mean())


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("gates", ["hard", "soft"])
def test_routers_get_gradients_and_the_model_none(family, gates):
    model = build(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainee = Trainee(model, settings({"gates": gates}))
    found = gradients(trainee)
    trained = {name for name in found if name.startswith(("routers.", "multipliers."))}
    assert len({name.split(".")[2] for name in trained if name.startswith("routers.")}) == 2  # both layers
    for name, gradient in found.items():
        if name in trained:
            assert gradient is not None, name
            assert gradient.abs().sum() > 0, name
        else:
            assert gradient is None, name
    grouped = {id(p) for group in trainee.parameter_groups() for p in group["params"]}
    assert grouped == {id(p) for name, p in trainee.named_parameters() if name.startswith("routers.")}
    assert trainee.trained_state().keys() == trained
    trainee.finish()
    assert not any("router" in name for name in model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("router, lora", [({}, None), ({}, {"r": 2}), (None, {"r": 2, "lora_dropout": 0.5})])
def test_recomputed_activations_change_no_gradient(family, router, lora):
    plain, saving = (
        gradients(Trainee(build(family), settings(router, lora, gradient_checkpointing=on))) for on in (False, True)
    )
    assert plain.keys() == saving.keys()
    trained = [name for name, gradient in plain.items() if gradient is not None]
    assert trained
    for name in plain:
        assert (plain[name] is None) == (saving[name] is None)
        assert plain[name] is None or torch.equal(plain[name], saving[name]), name


def test_activations_are_recomputed():
    """Without this, the test above would compare a thing with itself."""
    calls = []
    for on in (False, True):
        trainee = Trainee(build("qwen3"), settings({}, gradient_checkpointing=on))
        seen = []
        trainee.base.layers[1].self_attn.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        loss_of(trainee)[0].backward()
        calls.append(len(seen))
    assert calls == [1, 2]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_all_gates_full_is_the_stock_loss(family):
    model = build(family)
    expected = stock_loss(model, PACK)
    trainee = Trainee(model, settings({}))
    with torch.no_grad():
        for router in trainee.routers.layers.values():
            router.head[-1].bias.copy_(torch.tensor([-1e4, 1e4]))
        loss, found = loss_of(trainee)
    assert found["nll"] / (PACK.tokens - 3) == pytest.approx(expected, rel=1e-5)
    assert found["omega"] == found["sampled"] == [0.0, 0.0, 0.0]
    assert found["tasks"] == ["a", "b", "a"]
    assert float(loss) == pytest.approx(expected + found["regular"], rel=1e-5)


def test_samples_of_a_pack_do_not_see_each_other():
    """Other tokens in the first sample: the routes and the losses of the others stay."""
    trainee = Trainee(build("qwen3"), settings({}))
    other = Pack((sample(9, 40), *PACK.samples[1:]))
    with torch.no_grad():
        found = [loss_of(trainee, pack)[1] for pack in (PACK, other)]
        alone = [trainee(Pack((one.samples[0],)), Share(0, 0, 1, 1.0))[1] for one in (PACK, other)]
    rest = [whole["nll"] - own["nll"] for whole, own in zip(found, alone, strict=True)]
    assert rest[0] == pytest.approx(rest[1], rel=1e-5)
    assert found[0]["nll"] != pytest.approx(found[1]["nll"], rel=1e-4)
    assert found[0]["omega"][1:] == found[1]["omega"][1:]
    assert found[0]["sampled"][1:] == found[1]["sampled"][1:]


def test_routers_read_the_prompt_only():
    """Tokens of the answer move neither gates nor their noise."""
    trainee = Trainee(build("qwen3"), settings({}))
    first = PACK.samples[0]
    answer = Sample((*first.input_ids[:20], *sample(5, 20).input_ids), first.weights, 20, "a", "a#x")
    routes = []
    for one in (first, answer):
        with torch.no_grad():
            trainee(Pack((one,)), Share(0, 0, 1, 1.0))
        routes.append(torch.stack(list(trainee._gates.logits.values())))
    assert torch.equal(*routes)


def test_packs_are_dealt_out_without_effect():
    """Three packs of one sample give the noise, and so the losses, of one pack of three."""
    trainee = Trainee(build("llama"), settings({}))
    together = loss_of(trainee)[1]
    packs = [Pack((one,)) for one in PACK.samples]
    apart = [trainee(pack, share)[1] for pack, share in zip(packs, shares_of(packs, 0), strict=True)]
    assert sum(one["nll"] for one in apart) == pytest.approx(together["nll"], rel=1e-5)
    assert [one["sampled"][0] for one in apart] == together["sampled"]
    assert shares_of(packs, 4) == [Share(4, first, 3, 39 + 23 + 29) for first in range(3)]


def test_bf16():
    trainee = Trainee(build("qwen3"), settings({}, bf16=True, gradient_checkpointing=True))
    plain = gradients(Trainee(build("qwen3"), settings({})))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = loss_of(trainee)
    loss.backward()
    trained = [name for name, parameter in trainee.named_parameters() if parameter.requires_grad]
    assert trained == [name for name, gradient in plain.items() if gradient is not None]
    for name in trained:
        gradient = trainee.get_parameter(name).grad
        assert gradient.dtype == torch.float32
        assert torch.isfinite(gradient).all()


def test_low_precision_weights():
    trainee = Trainee(build("qwen3", dtype=torch.bfloat16), settings({}))
    found = gradients(trainee)
    assert {g.dtype for g in found.values() if g is not None} == {torch.float32}  # routers stay in full precision


@pytest.mark.parametrize("family", ["gemma2", "cohere2", "granite"])
def test_changed_logits_are_refused(family, monkeypatch):
    made = TEXT_CONFIGS[family]
    scale = {"granite": {"logits_scaling": 8.0}, "gemma2": {"attn_logit_softcapping": None}}.get(family, {})

    def scaled():
        config = made()
        for key, value in scale.items():
            setattr(config, key, value)
        return config

    monkeypatch.setitem(TEXT_CONFIGS, family, scaled)
    trainee = Trainee(build(family), settings({"features": "hidden"}))
    with pytest.raises(UnsupportedModelError, match="changes its logits behind the output embedding"):
        check_head(trainee)


def test_the_head_is_checked_without_the_method():
    """A method that draws anew in each forward would look like changed logits."""
    given = recipe(
        method={"name": "stochastic", "options": {"window": 2}}, lora={}, data={"sources": SOURCES}, router=None
    )
    trainee = Trainee(build("qwen3"), given)
    check_head(trainee)


def test_draws_follow_from_the_sample():
    """What stochastic attention draws depends on step and sample: not on what ran before, as after a resume."""
    given = recipe(
        method={"name": "stochastic", "options": {"window": 2}}, lora={}, data={"sources": SOURCES}, router=None
    )
    trainee = Trainee(build("qwen3"), given)
    packs = [Pack((one,)) for one in PACK.samples]
    shares = shares_of(packs, 3)
    forwards = [
        [trainee(packs[index], shares[index])[1]["nll"] for index in order] for order in ([0, 1, 2], [2, 1, 0])
    ]
    assert forwards[0] == forwards[1][::-1]
    together = loss_of(trainee, step=3)[1]["nll"]
    assert sum(forwards[0]) == pytest.approx(together, rel=1e-5)
    assert loss_of(trainee, step=4)[1]["nll"] != pytest.approx(together, rel=1e-6)


def test_dropout_of_the_frozen_model_is_off(monkeypatch):
    made = TEXT_CONFIGS["llama"]
    monkeypatch.setitem(
        TEXT_CONFIGS, "llama", lambda: made().__class__(**{**made().to_dict(), "attention_dropout": 0.5})
    )
    for checkpointing in (False, True):
        trainee = Trainee(build("llama"), settings({}, gradient_checkpointing=checkpointing))
        assert trainee.base.config.attention_dropout == 0.5
        losses = [float(loss_of(trainee)[0].detach()) for _ in range(2)]
        assert losses[0] == losses[1]


def test_dropout_of_the_adapter_follows_from_the_sample():
    trainee = Trainee(build("llama"), settings(None, {"lora_dropout": 0.5, "r": 2}))
    with torch.no_grad():
        for name, parameter in trainee.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    loss, again, later = (loss_of(trainee, step=step)[1]["nll"] for step in (0, 0, 1))
    assert loss == again != later
    trainee.eval()
    assert loss_of(trainee, step=0)[1]["nll"] == loss_of(trainee, step=1)[1]["nll"]


def test_models_that_would_mix_the_samples_are_refused():
    with pytest.raises(UnsupportedModelError, match="samples cannot share a row"):
        Trainee(build("qwen3_next"), settings({}))


def test_methods_that_patch_nothing():
    with pytest.raises(UnsupportedModelError, match=r"can patch no layer of Gemma2ForCausalLM: .*softcap"):
        Trainee(build("gemma2"), settings({}))


def test_a_step_without_labels():
    empty = Sample((1, 2, 3), (1.0, 0.0, 0.0), 1, "a", "a#0")
    with pytest.raises(TrainingError, match="step 3 has no token to train on"):
        shares_of([Pack((empty,))], 3)


def test_checkpoints_of_others_are_refused():
    trainee = Trainee(build("llama"), settings({}))
    state = trainee.trained_state()
    name = next(iter(state))
    with pytest.raises(TrainingError, match="another run's"):
        trainee.restore({name: state[name]})
    with pytest.raises(TrainingError, match="another model's"):
        trainee.restore({**state, name: torch.zeros(3)})
    trainee.restore({name: torch.ones_like(value) for name, value in state.items()})
    assert all(bool((value == 1).all()) for value in trainee.trained_state().values())


def test_what_is_wrong_is_named():
    model = build("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[120] = torch.nan
    trainee = Trainee(model, settings({}))
    ids = PACK.samples[1].input_ids
    poisoned = Sample((*ids[:5], 120, *ids[6:]), PACK.samples[1].weights, 12, "b", "b#bad")
    loss, found = loss_of(trainee, Pack((PACK.samples[0], poisoned, PACK.samples[2])))
    assert not torch.isfinite(loss)
    assert [one.id for one in found["wrong"]] == ["b#bad"]
