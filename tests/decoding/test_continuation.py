"""Running everything at once gives what was computed token by token."""

from __future__ import annotations

import pytest
import torch

from attnpatch.decoding.continuation import Continuation, prepare
from tests import zoo
from tests.decoding.cases import FAMILIES


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_sequence_without_a_cache_continues_alike(family, padding):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in inputs:
            inputs[name] = torch.nn.functional.pad(inputs[name], (padding, 0))
    with torch.no_grad():
        run = Continuation(model, *prepare(model, inputs))
        if family == "paligemma":
            written = model._update_model_kwargs_for_generation({}, dict(run.arguments))["token_type_ids"][0, -1]
            if not written:
                pytest.skip("this transformers lets PaliGemma's written tokens see later ones where it has no cache")
        assert torch.allclose(run.whole(), run.prompt(), atol=1e-6)
        for token in (21, 22, 23):
            fed = run.feed(torch.tensor([token]))
            assert torch.allclose(run.whole(), fed, atol=1e-6)
