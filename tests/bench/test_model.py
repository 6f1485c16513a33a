"""bench_model and bench_overhead: what they measure is what they say."""

from __future__ import annotations

import pytest
import torch
import transformers

from attnpatch import kernels
from attnpatch.bench.model import bench_model
from attnpatch.bench.overhead import bench_overhead
from attnpatch.patching import AttnPatchError, UnsupportedModelError
from tests import zoo


def small_config():
    return zoo.TEXT_CONFIGS["qwen3"]()


def run(**changes):
    settings = {"lengths": (96, 40), "layers": 2, "repeats": 2, "method_options": {"window": 16, "sink": 2}}
    return bench_model(small_config(), **{**settings, **changes})


def test_rows_and_budget():
    seen = []
    result = run(progress=lambda *state: seen.append(state))
    short, long = result.rows
    assert (short["length"], long["length"]) == (40, 96)
    # 96 tokens, window 16 and 2 sinks: row i sees min(i + 1, 16 + min(2, i - 15)) keys.
    pairs = sum(min(i + 1, 16 + max(0, min(2, i - 15))) for i in range(96))
    assert long["mean_keys"] == pytest.approx(pairs / 96)
    assert long["stock_mean_keys"] == 97 / 2
    assert "chunked" in long["backend"]
    assert long["speedup"] == pytest.approx(long["stock_seconds"] / long["patched_seconds"])
    assert len(long["runs"]["stock"]) == len(long["runs"]["patched"]) == 2
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_exactness_is_measured_against_dense_masked_attention(monkeypatch):
    assert run().settings["max_logit_difference"] < 1e-5
    real = kernels.attend

    def wrong(*args, **kwargs):
        answer = real(*args, **kwargs)
        return answer._replace(output=answer.output * 1.1)

    monkeypatch.setattr(kernels, "attend", wrong)
    assert run().settings["max_logit_difference"] > 1e-3


def test_what_hides_nothing_runs_on_stock_and_says_so():
    result = run(method_options={"window": 200})
    assert {row["backend"] for row in result.rows} == {"sdpa"}
    assert result.settings["max_logit_difference"] is None
    assert not any("exactness" in note for note in result.notes)


def test_other_methods_dtypes_and_families():
    result = run(method="stochastic", method_options={"window": 8}, dtype="bf16", repeats=1)
    assert result.settings["dtype"] == "bfloat16"
    result = bench_model(zoo.VLM_CONFIGS["llava"](), lengths=(24,), layers=1, repeats=1, method_options={"window": 8})
    assert result.settings["model"]["class"] == "LlamaForCausalLM"


def test_the_baseline_is_named():
    config = zoo.TEXT_CONFIGS["gpt_oss"]()  # transformers gives it no sdpa
    result = bench_model(config, lengths=(24,), layers=2, repeats=1, method_options={"window": 4})
    assert result.settings["baseline"] == "transformers eager"
    assert "eager" in result.title


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"lengths": ()}, "lengths"),
        ({"lengths": (1,)}, ">= 2"),
        ({"lengths": (2.5,)}, "lengths"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"repeats": 0}, "repeats"),
        ({"decode_steps": 0}, "decode_steps"),
        ({"method_options": {"windw": 3}}, "Did you mean 'window'"),
    ],
)
def test_bad_arguments(changes, said):
    with pytest.raises(AttnPatchError, match=said):
        run(**changes)


def test_a_model_that_cannot_be_patched_is_refused_first():
    with pytest.raises(UnsupportedModelError):
        bench_model(zoo.REFUSED_CONFIGS["falcon"](), lengths=(8,), layers=1)
    capped = transformers.Gemma2Config(**zoo.TEXT, **zoo.GEMMA)
    with pytest.raises(UnsupportedModelError, match="softcap"):
        bench_model(capped, lengths=(8,), layers=1)


def test_overhead_is_a_slope_and_an_intercept():
    result = bench_overhead(layers=(1, 4), repeats=3)
    one, four = (row["extra_us"] for row in result.rows)
    assert result.settings["us_per_layer"] == pytest.approx((four - one) / 3)
    assert result.settings["us_per_forward"] == pytest.approx(one - (four - one) / 3)
    assert result.machine["threads"] == 1
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize("layers", [(2,), (2, 2), (0, 2), ("2", 3)])
def test_overhead_needs_two_depths(layers):
    with pytest.raises(AttnPatchError, match="two or more"):
        bench_overhead(layers=layers)
