"""apply(): bad input is refused with one clear error before anything changes; wrappers, layers, stacking, registry."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pydantic import Field
from torch import nn
from transformers import BertConfig, BertModel

import attnpatch
from attnpatch.patching import method as registry
from tests import zoo
from tests.snapshots import structure


@pytest.fixture
def model():
    return zoo.build("llama")


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**zoo.text_batch()).logits


BAD = {
    "unknown method": (("slidng",), {}, attnpatch.AttnPatchError, "unknown method 'slidng'. Did you mean 'sliding'"),
    "companion of decoding": (
        ("vcd",),
        {},
        attnpatch.AttnPatchError,
        "Companions .* go to attnpatch.decoding.generate",
    ),
    "unknown option": (("sliding",), {"windw": 3}, attnpatch.AttnPatchError, "'windw'. Did you mean 'window'"),
    "option out of range": (("sliding",), {"window": 0}, attnpatch.AttnPatchError, r"window=0: .*greater than or"),
    "option of a wrong type": (("sliding",), {"window": "8"}, attnpatch.AttnPatchError, "window='8': .*integer"),
    "option not allowed": (("stochastic",), {"variant": "bins"}, attnpatch.AttnPatchError, "'slots' or 'buckets'"),
    "options that exclude each other": (
        ("sliding",),
        {"evict": True, "decode": "dense"},
        attnpatch.AttnPatchError,
        "evict=True drops keys",
    ),
    "layer that does not exist": (("sliding",), {"layers": 2}, attnpatch.AttnPatchError, r"layers 0\.\.1"),
    "negative layer that does not exist": (("sliding",), {"layers": -3}, attnpatch.AttnPatchError, "layer -3"),
    "layer of a wrong type": (("sliding",), {"layers": [1.5]}, TypeError, "layers contains 1.5"),
    "layer as a bool": (("sliding",), {"layers": True}, TypeError, "layers contains True"),
    "layers that are no text": (("sliding",), {"layers": "first"}, attnpatch.AttnPatchError, "'first' is no index"),
    "no layer": (("sliding",), {"layers": []}, attnpatch.AttnPatchError, "selects none of the 2 layers"),
    "no layer by callable": (("sliding",), {"layers": lambda _: False}, attnpatch.AttnPatchError, "selects none"),
    "method of a wrong type": ((3,), {}, TypeError, "method must be a name"),
    "no method": (([],), {}, attnpatch.AttnPatchError, "empty list"),
    "options beside a list": ((["sliding"],), {"window": 4}, attnpatch.AttnPatchError, "ambiguous"),
    "two that replace keys": ((["sliding", "stochastic"],), {}, attnpatch.AttnPatchError, "both replace the keys"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_changes_nothing(model, case):
    arguments, options, error, message = BAD[case]
    before = structure(model)
    with pytest.raises(error, match=message):
        attnpatch.apply(model, *arguments, **options)
    assert structure(model) == before


@pytest.mark.parametrize("thing", ["gpt2", None, nn.Linear(2, 2), 3])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(TypeError, match="must be a transformers PreTrainedModel"):
        attnpatch.apply(thing, "sliding")


def test_an_encoder_is_refused_for_key_replacing_methods():
    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=99
    )
    with pytest.raises(attnpatch.UnsupportedModelError):
        attnpatch.apply(BertModel(config), "sliding")


def test_a_second_key_replacer_is_refused_and_the_first_stays(model):
    with attnpatch.apply(model, "sliding", window=4):
        before, changed = structure(model), logits(model)
        with pytest.raises(
            attnpatch.AttnPatchError, match="'stochastic' and 'sliding' both replace the keys at layer 0"
        ):
            attnpatch.apply(model, "stochastic")
        assert structure(model) == before
        assert torch.equal(changed, logits(model))
        with attnpatch.apply(model, "stock"):
            assert torch.equal(changed, logits(model))


def test_two_key_replacers_share_a_model_layer_by_layer(model):
    with (
        attnpatch.apply(model, "sliding", window=4, layers=0) as one,
        attnpatch.apply(model, "stochastic", layers="1:"),
    ):
        assert [site.layer for site in one.report().sites] == [0]
        assert len(attnpatch.patches(model)) == 2


@pytest.mark.parametrize(
    "layers, expected",
    [
        (None, [0, 1, 2, 3, 4, 5]),
        ("all", [0, 1, 2, 3, 4, 5]),
        (2, [2]),
        (-1, [5]),
        ([0, -1], [0, 5]),
        (slice(1, None, 2), [1, 3, 5]),
        ([slice(0, 2), 5], [0, 1, 5]),
        ("0,2:4,-1", [0, 2, 3, 5]),
        (lambda layer: layer % 3 == 0, [0, 3]),
        (range(2), [0, 1]),
    ],
)
def test_layer_selection(layers, expected):
    model = zoo.build("gemma3_text")
    patch = attnpatch.apply(model, "stock", layers=layers)
    assert [site.layer for site in patch.report().sites] == expected


def test_a_failure_while_installing_changes_nothing(model, monkeypatch):
    before = structure(model)
    monkeypatch.setattr("attnpatch.patching.install.SitePlan", None)
    with pytest.raises(TypeError):
        attnpatch.apply(model, "sliding")
    assert structure(model) == before


def test_skipped_sites_carry_their_reason():
    with attnpatch.apply(zoo.build("gemma3_text"), "stochastic") as patch:
        report = patch.report()
    assert [site.layer for site in report.sites] == [5]
    assert {skip["reason"] for skip in report.skipped} == {"the layer has a sliding window of its own"}
    with attnpatch.apply(zoo.build("qwen3_next"), "stochastic") as patch:
        reasons = [skip["reason"] for skip in patch.report().skipped]
    assert len(reasons) == 3
    assert all("does not go through the attention interface" in reason for reason in reasons)


def test_softcap_is_refused_where_no_layer_is_left():
    model = zoo.build("gemma2")
    before = structure(model)
    with pytest.raises(attnpatch.UnsupportedModelError, match=r"can patch no layer .*softcap"):
        attnpatch.apply(model, "sliding")
    assert structure(model) == before


def test_the_report_reads_well(model):
    patch = attnpatch.apply(model, "sliding", window=4, sink=1)
    assert "no call seen yet" in str(patch.report())
    logits(model)
    report = patch.report()
    assert "model.layers" not in str(report.to_dict()["sites"][0]["name"])
    assert report.to_dict()["budget"]["mean_keys"] == pytest.approx(report.mean_keys)
    # Rows of 9 and 12 tokens under window 4 + sink 1: 4, then 5 keys from the fifth token on.
    assert report.mean_keys == pytest.approx((1 + 2 + 3 + 4 + 5 * 5 + 1 + 2 + 3 + 4 + 8 * 5) / 21)
    assert "sliding" in repr(patch)
    assert "2 calls" in repr(patch)
    patch.remove()
    assert "removed" in repr(patch)
    assert "removed" in str(patch.report())


class TestWrappers:
    def test_pipeline(self, model):
        from transformers import TextGenerationPipeline

        from tests.tokens import byte_tokenizer

        wide = type(model)(type(model.config)(**{**zoo.TEXT, "vocab_size": 300})).eval()
        pipe = TextGenerationPipeline(model=wide, tokenizer=byte_tokenizer(), device="cpu")
        with attnpatch.apply(pipe, "sliding", window=4) as patch:
            pipe(["some text", "some more text"], max_new_tokens=3, batch_size=2)
            assert patch.report().calls
        assert not attnpatch.patches(pipe)

    def test_compiled(self, model):
        with attnpatch.apply(torch.compile(model, backend="eager"), "sliding"):
            assert attnpatch.patches(model)

    def test_data_parallel(self, model):
        with attnpatch.apply(nn.DataParallel(model), "sliding"):
            assert attnpatch.patches(model)


class TestCallsThatCannotBeAnswered:
    def test_ready_made_mask(self, model):
        mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
        with (
            attnpatch.apply(model, "sliding", window=3, sink=0),
            pytest.raises(attnpatch.UnsupportedCallError, match="4-D attention mask"),
        ):
            model(input_ids=torch.arange(3, 9)[None], attention_mask=mask)

    def test_padding_with_holes(self, model):
        mask = torch.tensor([[1, 0, 1, 1, 1, 1]])
        with (
            attnpatch.apply(model, "sliding", window=3, sink=0),
            pytest.raises(attnpatch.UnsupportedCallError, match="padding between real tokens"),
        ):
            model(input_ids=torch.arange(3, 9)[None], attention_mask=mask)

    def test_padding_mask_of_another_length(self, model):
        with (
            attnpatch.apply(model, "sliding", window=3, sink=0),
            pytest.raises(attnpatch.UnsupportedCallError, match="one column for every token"),
        ):
            model(input_ids=torch.arange(3, 9)[None], attention_mask=torch.ones(1, 4, dtype=torch.long))

    def test_packed_sequences(self, model):
        positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
        with (
            attnpatch.apply(model, "sliding", window=2, sink=0),
            pytest.raises(attnpatch.UnsupportedCallError, match="packed sequences"),
        ):
            model(input_ids=torch.arange(3, 9)[None], position_ids=positions, use_cache=False)

    def test_attention_dropout(self):
        model = zoo.build("llama").train()
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.1
        with (
            attnpatch.apply(model, "sliding", window=2, sink=0),
            pytest.raises(attnpatch.UnsupportedCallError, match=r"attention dropout 0\.1"),
        ):
            model(input_ids=torch.arange(3, 9)[None])


class TestRegistry:
    def test_a_method_of_ones_own(self, model):
        @attnpatch.register("halved")
        class Halved(attnpatch.Method):
            class Config(attnpatch.Config):
                factor: float = Field(0.5, gt=0, description="scale of every head's output")

            def attend(self, call, inner):
                output, weights = inner(call)
                return output * self.config.factor, weights

        try:
            before = logits(model)
            with attnpatch.apply(model, "halved", factor=0.25):
                assert not torch.equal(before, logits(model))
            with attnpatch.apply(model, ["halved", ("sliding", {"window": 3})]) as patch:
                assert [m.name for m in patch.methods] == ["halved", "sliding"]
            with attnpatch.apply(model, Halved(factor=1.0)):
                assert torch.equal(before, logits(model))
        finally:
            registry._registry.pop("halved")

    @pytest.mark.parametrize("name", ["Upper", "1st", "with space", ""])
    def test_bad_names(self, name):
        with pytest.raises(attnpatch.AttnPatchError, match="is not allowed"):
            attnpatch.register(name)(type("M", (attnpatch.Method,), {}))

    def test_taken_names(self):
        with pytest.raises(attnpatch.AttnPatchError, match=r"is taken by attnpatch\.methods\.sliding"):
            attnpatch.register("sliding")(type("M", (attnpatch.Method,), {}))

    def test_only_methods(self):
        with pytest.raises(TypeError, match=r"subclass of attnpatch\.Method"):
            attnpatch.register("thing")(int)

    def test_plugins_are_found_by_entry_point(self, tmp_path):
        (tmp_path / "their_plugin.py").write_text(
            "import attnpatch\nclass Theirs(attnpatch.Method):\n    def attend(self, call, inner):\n"
            "        return inner(call)\n"
        )
        info = tmp_path / "their_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[attnpatch.methods]\ntheirs = their_plugin:Theirs\n")
        code = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import attnpatch; "
            "print(attnpatch.methods()['theirs'].__module__)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "their_plugin"

    def test_importing_the_package_loads_no_method(self):
        code = "import attnpatch, sys; print([m for m in sys.modules if m.startswith('attnpatch.methods.')])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
