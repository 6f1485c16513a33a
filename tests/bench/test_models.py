"""Timed models: shapes from any config, small everywhere else."""

from __future__ import annotations

import pytest
import torch
import transformers

from attnpatch.bench.models import VOCABULARY, default_config, random_model, shrink
from attnpatch.patching import AttnPatchError
from tests import zoo

FAMILIES = {**zoo.TEXT_CONFIGS, **zoo.VLM_CONFIGS}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_at_another_length_and_depth(family):
    config = FAMILIES[family]()
    depth = config.get_text_config(decoder=True).num_hidden_layers
    layers = depth if family in ("qwen3_next", "qwen3_5", "mllama") else 1  # these need their whole pattern
    small = shrink(config, layers=layers, positions=300)
    model = random_model(small, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.full((1, 300), 5), logits_to_keep=1).logits
    assert logits.shape[:2] == (1, 1)
    assert model.config.get_text_config(decoder=True).num_hidden_layers == layers
    assert config.to_dict() == FAMILIES[family]().to_dict(), "the given config was changed"


def test_layer_types_and_vocabulary_shrink_too():
    config = transformers.Gemma3TextConfig(num_hidden_layers=12, vocab_size=262144)
    small = shrink(config, layers=6, positions=10)
    assert small.layer_types == config.layer_types[:6]
    assert (small.vocab_size, small.hidden_size) == (VOCABULARY, config.hidden_size)
    assert small.max_position_embeddings == config.max_position_embeddings


def test_random_weights_are_the_same_every_time():
    small = shrink(zoo.TEXT_CONFIGS["llama"](), layers=1, positions=8)
    one, two = (random_model(small, dtype=torch.bfloat16).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert {weight.dtype for weight in one.values()} == {torch.bfloat16}


def test_refusals():
    with pytest.raises(AttnPatchError, match="layers must be 1 to 28 for Qwen3Config, got 29"):
        shrink(default_config(), layers=29, positions=8)
    with pytest.raises(AttnPatchError, match="not the config of a causal language model"):
        shrink(transformers.ViTConfig(), layers=1, positions=8)
