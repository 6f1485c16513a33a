"""sgrs: its saliency against autograd through eager attention, its choices, and the neutral setting."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch import decoding
from attnpatch.decoding.continuation import Continuation, prepare
from attnpatch.decoding.rejection import RejectionLoop, default_layers
from attnpatch.decoding.saliency import SaliencyRecorder
from tests import zoo
from tests.decoding.cases import FAMILIES, FULL, STEPS, logits_along
from tests.methods.vision.prompts import batch
from tests.snapshots import structure

TOKENS = [21, 22, 23, 24]  # outputs that the model is made to have written
SAMPLED = {**STEPS, "do_sample": True, "max_new_tokens": 6, "min_new_tokens": 6}


def by_autograd(family: str, candidate: int, layers: list[int], norm: str, outputs: int = len(TOKENS)) -> float:
    """The score of `candidate` behind the outputs, from the attention maps of one eager forward over everything."""
    model, inputs = zoo.build(family, attn_implementation="eager"), zoo.image_prompt(family)
    ids, given = prepare(model, inputs)
    for token in TOKENS[:outputs]:
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
        given = model._update_model_kwargs_for_generation({}, given)
    if family == "paligemma":  # outputs are no part of the prefix in which tokens see what comes later
        given["token_type_ids"][:, inputs["input_ids"].shape[1] :] = 1
    given = {**given, "use_cache": False, "past_key_values": None, "output_attentions": True}
    out = model(**model.prepare_inputs_for_generation(ids, is_first_iteration=True, **given))
    loss = torch.nn.functional.cross_entropy(out.logits[:, -1], torch.tensor([candidate]))
    maps = [out.attentions[layer] for layer in layers]
    last, first = ids.shape[1] - 1, inputs["input_ids"].shape[1]
    total = 0.0
    for weights, gradient in zip(maps, torch.autograd.grad(loss, maps), strict=True):
        salient = (weights * gradient).abs().tril().sum(1)[0]
        salient = salient / (salient.norm() if norm == "matrix" else salient[-1].norm())
        total += float(salient[last, first:last].mean().detach())
    return total / len(layers)


def by_recorder(family: str, candidate: int, layers: list[int], norm: str) -> float:
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    recorder = SaliencyRecorder()
    first = inputs["input_ids"].shape[1]
    with torch.no_grad(), attnpatch.apply(model, recorder, layers=layers):
        run = Continuation(model, *prepare(model, inputs))
        run.prompt()
        for token in TOKENS[:-1]:
            run.feed(torch.tensor([token]))
        loop = RejectionLoop(decoding.build("sgrs", norm=norm, layers=layers).config, first)
        _, score = loop._next(run, torch.tensor([TOKENS[-1]]), recorder)
        assert not any(layer.keys.requires_grad for layer in run.cache.layers)
        found = score(candidate)
    assert not torch.is_grad_enabled() or all(p.grad is None for p in model.parameters())
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_what_autograd_finds_in_eager_attention(family):
    layers = [1, 3, 5] if family == "gemma3" else [0, 1]  # gemma3: sliding layers and a full one
    for candidate in (17, 90):
        expected = by_autograd(family, candidate, layers, "row")
        assert by_recorder(family, candidate, layers, "row") == pytest.approx(expected, rel=1e-3)
    assert by_autograd(family, 17, layers, "row") != pytest.approx(by_autograd(family, 90, layers, "row"), rel=1e-3)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_the_norm_of_the_whole_matrix(family):
    layers = [1, 3, 5] if family == "gemma3" else [0, 1]
    expected = by_autograd(family, 17, layers, "matrix")
    assert by_recorder(family, 17, layers, "matrix") == pytest.approx(expected, rel=1e-3)
    assert expected != pytest.approx(by_autograd(family, 17, layers, "row"), rel=1e-3)


def test_the_row_that_predicts_a_token_depends_on_it_and_the_tokens_own_row_does_not():
    model, inputs = zoo.build("llava", attn_implementation="eager"), zoo.image_prompt("llava")
    candidate = torch.tensor([[17]])
    ids = torch.cat([inputs.pop("input_ids"), candidate], 1)
    del inputs["attention_mask"]
    out = model(input_ids=ids, **inputs, output_attentions=True)
    loss = torch.nn.functional.cross_entropy(out.logits[:, -2], candidate[0])
    for gradient in torch.autograd.grad(loss, out.attentions):
        assert bool(gradient[0, :, -2].any())
        assert not bool(gradient[0, :, -1].any())


@pytest.mark.parametrize("family", FAMILIES)
def test_neutral_is_plain_sampling_from_the_top_k(family):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    for seed in (0, 1):
        torch.manual_seed(seed)
        plain = model.generate(**inputs, **SAMPLED, top_k=5)
        before = structure(model)
        torch.manual_seed(seed)
        sgrs = decoding.generate(model, inputs, "sgrs", alpha=0.0, layers=[0, 1], **SAMPLED)
        assert torch.equal(sgrs, plain)
        assert structure(model) == before


class Scored:
    """A loop whose scores of tokens are given."""

    def __init__(self, accepted: list[float], **options) -> None:
        self.loop = RejectionLoop(decoding.build("sgrs", **options).config, 0)
        self.loop.accepted = list(accepted)

    def choose(self, scores: dict[int, float], seed: int = 0) -> int:
        logits = torch.full((1, 10), -torch.inf)
        logits[0, list(scores)] = torch.linspace(1, 0, len(scores))
        torch.manual_seed(seed)
        return int(self.loop._choose(logits, scores.__getitem__))


SALIENT = {2: 0.1, 4: 0.5, 5: 0.2, 7: 0.3, 8: 0.4}


def test_tokens_below_the_threshold_are_never_accepted_while_others_are_left():
    for seed in range(20):
        scored = Scored([9.0, 0.5, 0.7], window=2, alpha=0.5, tries=5)  # threshold .5 * .6
        token = scored.choose(SALIENT, seed)
        assert token in (4, 7, 8)
        assert scored.loop.accepted[-1] == SALIENT[token]


def test_without_earlier_scores_the_first_sample_is_accepted():
    tokens = {Scored([], alpha=5.0).choose(SALIENT, seed) for seed in range(40)}
    assert tokens == set(SALIENT)


def test_all_rejected_falls_back_to_the_most_salient_candidate():
    for seed in range(5):
        scored = Scored([0.1], alpha=float("inf"), tries=3)
        assert scored.choose(SALIENT, seed) == 4
        assert scored.loop.rejected == 3
        assert scored.loop.accepted == [0.1, 0.5]


def test_an_endless_threshold_always_takes_the_most_salient_token():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    companion = decoding.build("sgrs", alpha=float("inf"), layers=[0, 1], candidates=3)
    torch.manual_seed(0)
    out = companion.generate(model, inputs, **SAMPLED, return_dict_in_generate=True, output_scores=True)
    start = inputs["input_ids"].shape[1]
    tokens = out.sequences[0, start:].tolist()
    scores = [row[0] for row in out.scores]
    for step in range(3, 6):  # the third token is the first with a score, and is accepted by it
        candidates = (scores[step] > -torch.inf).nonzero().flatten().tolist()
        recorder = SaliencyRecorder()
        with torch.no_grad(), attnpatch.apply(model, recorder, layers=[0, 1]):
            run = Continuation(model, *prepare(model, inputs))
            run.prompt()
            for token in tokens[: step - 1]:
                run.feed(torch.tensor([token]))
            _, score = RejectionLoop(companion.config, start)._next(run, torch.tensor([tokens[step - 1]]), recorder)
            assert tokens[step] == max(candidates, key=score)


def test_it_runs_with_other_methods_in_inference_mode_and_on_text():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    options = {"alpha": 1.5, "layers": [0, 1], **SAMPLED}
    torch.manual_seed(0)
    stock = decoding.generate(model, inputs, "sgrs", **options)
    with torch.inference_mode():
        torch.manual_seed(0)
        assert torch.equal(decoding.generate(model, inputs, "sgrs", **options), stock)
    with attnpatch.apply(model, "pai", alpha=3.0, first_layer=0) as patch:
        torch.manual_seed(0)
        patched = decoding.generate(model, inputs, "sgrs", **options, **FULL)
        assert torch.allclose(patched.logits[3], logits_along(model, inputs, patched.sequences[0, 11:])[3], atol=1e-5)
        assert attnpatch.patches(model) == [patch]
    llama = zoo.build("llama")
    text = {"input_ids": torch.tensor([[1, 5, 6, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    assert decoding.generate(llama, text, "sgrs", **options).shape == (1, 10)


def test_the_prompt_behind_the_image_can_count():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    loop = decoding.build("sgrs", include_prompt=True).settings(model, inputs)["custom_generate"]
    assert loop.first == 5
    assert decoding.build("sgrs").settings(model, inputs)["custom_generate"].first == inputs["input_ids"].shape[1]


def test_layers():
    assert default_layers(32) == [6, 7, 8]
    assert default_layers(28) == [5, 6, 7]
    assert default_layers(2) == [0]
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with pytest.raises(attnpatch.AttnPatchError, match=r"names \[7\], and the model has 2 layers"):
        decoding.build("sgrs", layers=[0, 7]).settings(model, inputs)


def test_one_sequence_at_a_time():
    model = zoo.build("llava")
    together, rows = batch("llava")
    with pytest.raises(attnpatch.AttnPatchError, match="one prompt at a time, got 2"):
        decoding.generate(model, together, "sgrs", **SAMPLED)
    with pytest.raises(attnpatch.UnsupportedCallError, match="got 3 rows"):
        decoding.generate(model, rows[0], "sgrs", num_return_sequences=3, **SAMPLED)
