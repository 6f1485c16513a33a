"""AttnPatchLM: lm-eval's own numbers without a method, and log-likelihoods decided on the context."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from pydantic import Field

import attnpatch
from attnpatch.evaluation.lm_eval import AttnPatchLM
from attnpatch.kernels import Window
from attnpatch.patching import method as registry
from attnpatch.patching.errors import AttnPatchError


class Reader(attnpatch.Method):
    """Takes its window from the sum of the whole prompt, so that a prompt with an answer in it decides otherwise."""

    class Config(attnpatch.Config):
        widest: int = Field(9, description="the window is 1 to this")

    reads_whole_prompt = replaces_keys = True
    seen: list[tuple[int, int]] = []  # noqa: RUF012 - (end of the prompt, window) of every call at layer 0

    def attend(self, call, inner):
        end = call.forward.prompt_end
        total = call.key[:, :, :end].double().sum().item()
        window = 1 + int(abs(total) * 1000) % self.config.widest
        if call.layer == 0:
            self.seen.append((end, window))
        return call.attend_by_phase(Window(window), None, inner)


@pytest.fixture
def reader(monkeypatch):
    """`Reader` in a registry that is back to what it was afterwards."""
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    attnpatch.register("reader")(Reader)
    monkeypatch.setattr(Reader, "seen", [])
    return Reader


@pytest.fixture
def patched(model, tokenizer):
    """`patched(method, **options)`: an AttnPatchLM whose patch goes with the next one, or after the test."""
    made = []

    def make(method="stock", **options):
        while made:
            made.pop().patch.remove()
        lm = AttnPatchLM(model, method, tokenizer=tokenizer, **options)
        lm.silent = True
        made.append(lm)
        return lm

    yield make
    while made:
        made.pop().patch.remove()


def plain(model, tokenizer, **options):
    return HFLM(model, tokenizer=tokenizer, **options)


def request(*arguments):
    return SimpleNamespace(args=arguments)


def loglikelihoods(lm, *pairs):
    return [value for value, _ in lm.loglikelihood([request(*pair) for pair in pairs], disable_tqdm=True)]


@pytest.fixture
def stock(answers, model, tokenizer):
    """What lm-eval's own model says, two requests a batch."""
    return answers(plain(model, tokenizer, batch_size=2))


def test_stock_gives_the_numbers_of_lm_evals_own_model_to_the_last_bit(answers, stock, patched):
    assert answers(patched("stock", batch_size=2)) == stock


def test_the_model_gives_them_again_after_a_method(answers, stock, patched, model, tokenizer):
    lm = patched("sliding", method_args={"window": 2, "sink": 0})
    assert answers(lm) != stock
    lm.patch.remove()
    assert answers(plain(model, tokenizer, batch_size=2)) == stock


def test_a_patched_model_in_hflm_works_unchanged(answers, patched, model, tokenizer):
    with attnpatch.apply(model, "sliding", window=4, sink=0) as patch:
        found = answers(plain(model, tokenizer))
        assert patch.report().calls
    assert found == answers(patched("sliding", method_args="window=4;sink=0"))


def test_every_task_type_changes_under_a_narrow_window(answers, stock, patched):
    _, replies = answers(patched("sliding", method_args="window=2;sink=0"))
    assert all(replies[name] != stock[1][name] for name in replies)


def test_method_args_as_text_and_as_a_mapping_are_the_same(patched):
    text = patched("stochastic", method_args="window=3; seed=7;circular=false")
    mapping = patched("stochastic", method_args={"window": 3, "seed": 7, "circular": False})
    assert text.patch.methods[0].config == mapping.patch.methods[0].config


def test_layers_in_text(patched):
    assert len(patched("sliding", layers="0;1").patch.site_names) == 2
    assert len(patched("sliding", layers="-1").patch.site_names) == 1


@pytest.mark.parametrize(
    "given, message",
    [
        ({"method": "slidin"}, "Did you mean 'sliding'"),
        ({"method": "sliding", "method_args": "windw=3"}, "Did you mean 'window'"),
        ({"method": "sliding", "method_args": "window"}, "write window=1024;seed=0"),
        ({"loglikelihood": "contxt"}, "Did you mean 'context'"),
        ({"overflow": "cut"}, "Allowed: .*'error', 'truncate'"),
        ({"method": "stochastic", "batch_size": "auto"}, "its answers depend on the batch"),
    ],
)
def test_bad_values_are_one_clear_error_before_anything_is_loaded(given, message):
    with pytest.raises(AttnPatchError, match=message):
        AttnPatchLM("/no/such/model", **given)


# What a log-likelihood is decided on

CONTEXT = "The amber key opens the gate."
CONTINUATIONS = ("a", " red heron", " the long way round to the jetty")


def test_a_reader_of_the_whole_prompt_decides_on_the_context_alone(reader, patched):
    lm = patched("reader")
    assert lm.scoring.loglikelihood == "context"
    loglikelihoods(lm, *((CONTEXT, continuation) for continuation in CONTINUATIONS))
    assert set(reader.seen) == {(len(CONTEXT), reader.seen[0][1])}
    assert len(reader.seen) == 3


def test_flux_decides_without_the_continuation(patched):
    gates = []
    for continuation in CONTINUATIONS:
        lm = patched("flux", method_args="router=untrained;local=4;sink=1;seed=1")
        logits, method = [], lm.patch.methods[0]
        real = method.routers.logits
        method.routers.logits = lambda call, spans, real=real, seen=logits: seen.append(real(call, spans)) or seen[-1]
        loglikelihoods(lm, (CONTEXT, continuation))
        gates.append(torch.cat(logits))
    assert gates[0].shape == (2, 2)
    assert all(torch.allclose(one, gates[0], atol=1e-5) for one in gates)


def test_on_the_whole_it_would_read_the_answer(reader, patched):
    lm = patched("reader", loglikelihood="whole")
    loglikelihoods(lm, *((CONTEXT, continuation) for continuation in CONTINUATIONS))
    ends = [len(CONTEXT) + len(continuation) - 1 for continuation in CONTINUATIONS]
    assert sorted(end for end, _ in reader.seen) == ends
    assert len({window for _, window in reader.seen}) > 1


def test_contexts_of_different_length_are_declared_one_by_one(reader, patched):
    lm = patched("reader", batch_size=4)
    loglikelihoods(lm, (CONTEXT, " a"), (CONTEXT + " Why?", " a"), (CONTEXT, " heron"))
    assert sorted({end for end, _ in reader.seen}) == [len(CONTEXT), len(CONTEXT + " Why?")]
    assert lm.patch._installation.declared_prompt is None


@pytest.mark.parametrize("method", ["reader", "stochastic"])
def test_rows_of_the_context_do_not_depend_on_the_continuation(reader, patched, model, method):
    """The logits of the context's rows, as `_loglikelihood_tokens` has them computed, for two continuations."""
    options = {} if method == "reader" else {"window": 3, "resample": False}
    lm = patched(method, method_args=options, loglikelihood="context")
    rows, call = [], lm._model_call
    lm._model_call = lambda inputs, *more: rows.append(call(inputs, *more)) or rows[-1]
    loglikelihoods(lm, (CONTEXT, " red heron"))
    loglikelihoods(lm, (CONTEXT, " the long way round"))
    first, second = (one[0, : len(CONTEXT)] for one in rows)
    assert torch.allclose(first, second, atol=1e-5)
    assert not torch.allclose(rows[0][0, : len(CONTEXT)], stock_logits(lm, CONTEXT), atol=1e-2)


def stock_logits(lm, text):
    with lm.patch.disabled(), torch.no_grad():
        return lm.model(torch.tensor([lm.tok_encode(text)])).logits[0]


def test_stochastic_scores_sparsely_by_default_and_densely_behind_the_context(patched):
    pairs = [(CONTEXT, continuation) for continuation in CONTINUATIONS]
    options = {"window": 3, "resample": False}
    default = loglikelihoods(lm := patched("stochastic", method_args=options), *pairs)
    assert lm.scoring.loglikelihood == "whole"
    context = loglikelihoods(lm := patched("stochastic", method_args=options, loglikelihood="context"), *pairs)
    assert all(abs(a - b) > 1e-3 for a, b in zip(default[1:], context[1:], strict=True))
    # One scored token: its row is the last of the prompt either way.
    assert default[0] == pytest.approx(context[0], abs=1e-5)


def test_padding_never_reaches_a_method_that_depends_on_the_length(patched):
    pairs = [(CONTEXT, continuation) for continuation in CONTINUATIONS]
    options = {"window": 3, "resample": False}
    together = loglikelihoods(patched("stochastic", method_args=options, batch_size=8), *pairs)
    alone = [loglikelihoods(patched("stochastic", method_args=options), pair)[0] for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-5)


def test_texts_that_split_differently_keep_their_own_context(patched, reader):
    """lm-eval shares one forward among requests with the same tokens; here their contexts differ."""
    lm = patched("reader", batch_size=4)
    one, two = loglikelihoods(lm, ("The amber", " key opens"), ("The amber key", " opens"))
    assert sorted({end for end, _ in reader.seen}) == [len("The amber"), len("The amber key")]
    assert one != two


# What must not happen


def test_lm_evals_cache_is_refused(patched, tmp_path):
    with pytest.raises(AttnPatchError, match="use_cache is not possible"):
        CachingLM(patched("sliding"), str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
def test_a_prompt_that_does_not_fit_is_an_error(patched, kind):
    lm = patched("stock", max_length=32)
    arguments = {"loglikelihood": ("x" * 30, "y" * 8), "generate_until": ("x" * 30, {"until": [], "max_gen_toks": 8})}
    with pytest.raises(AttnPatchError, match=r"a prompt of 30 tokens and [78] to .* max_length=32"):
        getattr(lm, kind)([request(*arguments[kind])], disable_tqdm=True)


def test_a_prompt_that_just_fits_is_not_and_truncation_can_be_asked_for(patched, model, tokenizer):
    fits = ("x" * 30, "yyy")  # 32 tokens are read: the last one is predicted only
    loglikelihoods(patched("stock", max_length=32), fits)
    too_long = ("x" * 30, "y" * 8)
    cut = loglikelihoods(patched("stock", max_length=32, overflow="truncate"), too_long)
    assert cut == loglikelihoods(plain(model, tokenizer, max_length=32), too_long)


def test_results_say_what_was_used(answers, patched):
    lm = patched("stochastic", method_args="window=4")
    with pytest.raises(RuntimeError, match="never called"):
        lm.get_model_info()
    answers(lm, names=["toy_mc"], limit=2)
    found = lm.get_model_info()["attnpatch"]
    assert found["methods"][0]["name"] == "stochastic"
    assert (found["loglikelihood"], found["batch_size"]) == ("whole", 1)
    assert found["report"]["calls"] > 0


def test_speed_counts_real_tokens_and_tells_prefill_from_decode(patched):
    lm = patched("stock", batch_size=2)
    loglikelihoods(lm, ("abcdef", "gh"), ("abc", "gh"))
    assert lm.prefill.batches[0][0] == 7 + 4
    lm.generate_until([request("abcdef", {"until": [], "max_gen_toks": 5, "do_sample": False})], disable_tqdm=True)
    assert lm.prefill.batches[1][0] == 6
    assert 0 < lm.decode.batches[0][0] <= 4


def test_batch_size_search_does_not_count(patched):
    lm = patched("sliding", batch_size="auto", max_batch_size=2, max_length=16)
    loglikelihoods(lm, ("abcdef", "gh"))
    assert lm.patch.report().sites[0].calls == 1
