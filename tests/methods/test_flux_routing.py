"""flux's router against its sheet: size, what it reads, when it decides, and rows that go different ways."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch import UnsupportedCallError
from attnpatch.methods.flux.router import FULL, Router, Routers, Shape, boundary, is_full
from tests import zoo
from tests.methods.flux_cases import WINDOW, batch, close, counted, gates_of, generated, logits, mixed, prompt
from tests.snapshots import generated_logits, same

# The router


def test_parameters_of_the_sheet():
    assert sum(one.numel() for one in Router(128, 128).parameters()) == 592_002
    assert sum(one.numel() for one in Router(128, 128).encoder.parameters()) == 394_496


@pytest.mark.parametrize("length", [1, 3, 7, 8, 20])
def test_pooling_is_the_mean_over_both_ends(length):
    pool, torch_rows = 4, torch.randn(length, 5)
    expected = torch.cat([torch_rows[:pool], torch_rows[max(length - pool, 0) :]]).mean(0)
    assert torch.allclose(torch_rows[boundary(0, length, pool)].mean(0), expected, atol=1e-6)
    assert boundary(3, 3 + length, pool) == [at + 3 for at in boundary(0, length, pool)]


def test_the_router_by_hand():
    torch.manual_seed(0)
    router = Router(8, 8)
    states = torch.randn(3, 8)
    weights = [module for module in router.modules() if isinstance(module, torch.nn.Linear)]
    assert [(one.in_features, one.out_features) for one in weights] == [(8, 64), (64, 16), (16, 32), (32, 8), (8, 2)]
    x, silu = states, torch.nn.functional.silu
    x = silu(weights[0](x))
    x = silu(weights[2](weights[1](x)))
    assert torch.allclose(router(states), weights[4](silu(weights[3](x))), atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(router(states), router(states.double()))
    assert router(states).dtype == torch.float32


def test_a_tie_is_sparse_and_the_second_column_is_full():
    assert is_full(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])) == [False, True, False]
    assert FULL == 1


def test_a_new_router_starts_at_even_odds():
    routers = Routers(Shape("query", 128, 128), [0]).start(0)
    assert routers.layers["0"](torch.randn(64, 128)).abs().max() < 0.05
    spread = routers.layers["0"].head[0].weight
    assert spread.std().item() == pytest.approx(0.02, rel=0.05)


def test_only_both_ends_of_the_layers_input_are_read():
    model, pool = zoo.build("llama"), 3
    options = {"router": "untrained", **WINDOW}
    found = []
    with attnpatch.apply(model, "flux", **options) as patch:
        routers = patch.methods[0].routers
        routers.shape = routers.shape._replace(pool=pool)
        for at in (None, 3, 8, 2, 9):
            ids = prompt(12)["input_ids"]
            if at is not None:
                ids[0, at] = (ids[0, at] + 7) % 90 + 3
            kept = []
            handle = routers.layers["0"].register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out))
            logits(model, input_ids=ids)
            handle.remove()
            found.append(kept[0])
    for inside in found[1:3]:
        assert torch.equal(found[0], inside)
    for outside in found[3:]:
        assert not torch.allclose(found[0], outside, atol=1e-6)


# When it decides


def test_decode_reuses_the_decision_of_the_prompt():
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", router="untrained", **WINDOW) as patch, torch.no_grad():
        seen = counted(patch)
        for number in (1, 2):
            model.generate(**prompt(), max_new_tokens=5, min_new_tokens=5, do_sample=False)
            assert seen == [0, 1] * number
        assert sum(sum(site.routes.values()) for site in patch.report().sites) == 4


def test_a_second_turn_keeps_the_first_decision():
    options, one, two = mixed()
    model = zoo.build("llama")
    chat = torch.cat([one, two], 1)
    with attnpatch.apply(model, "flux", **options) as patch, torch.no_grad():
        seen = counted(patch)
        cache = model(one).past_key_values
        first = dict(gates_of(patch))
        with pytest.raises(UnsupportedCallError, match=r"patch\.prompt"):
            model(two, past_key_values=cache)
        cache = model(one).past_key_values
        with patch.prompt(chat.shape[1]):
            after = model(two, past_key_values=cache).logits
        assert seen[-2:] == [0, 1]
        assert len(seen) == 4
        assert gates_of(patch) == first
    plan = [int(first[layer][0]) for layer in sorted(first)]
    with attnpatch.apply(model, "flux", plan=plan, **WINDOW):
        assert close(after, logits(model, input_ids=chat)[:, one.shape[1] :])


def test_a_cache_begun_without_the_patch_is_refused():
    model = zoo.build("llama")
    with torch.no_grad():
        cache = model(**prompt()).past_key_values
    refusal = pytest.raises(UnsupportedCallError, match=r"12 tokens was begun without it.*Start with a new cache")
    with attnpatch.apply(model, "flux", router="untrained", **WINDOW), torch.no_grad(), refusal:
        model(torch.tensor([[5]]), past_key_values=cache)


def test_a_prompt_in_pieces_is_refused():
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", router="untrained", **WINDOW) as patch, torch.no_grad():
        for declared in (False, True):
            refusal = pytest.raises(UnsupportedCallError, match="prefill_chunk_size" if declared else "patch.prompt")
            if declared:
                with patch.prompt(12), refusal:
                    model.generate(**prompt(), max_new_tokens=2, prefill_chunk_size=5)
            else:
                with refusal:
                    model.generate(**prompt(), max_new_tokens=2, prefill_chunk_size=5)


def test_a_ready_made_mask_does_not_say_where_the_prompt_is():
    model, ids = zoo.build("llama"), prompt()["input_ids"]
    mask = torch.ones(12, 12, dtype=torch.bool).tril()[None, None]
    refusal = pytest.raises(UnsupportedCallError, match="2-D attention_mask")
    with attnpatch.apply(model, "flux", router="untrained", **WINDOW) as patch, torch.no_grad(), refusal:
        for router in patch.methods[0].routers.layers.values():
            router.head[-1].bias[FULL] = 1e3  # full, so no arm would refuse
        model(ids, attention_mask=mask)
    stock = logits(model, input_ids=ids, attention_mask=mask)
    with attnpatch.apply(model, "flux", plan="full"):
        assert torch.equal(stock, logits(model, input_ids=ids, attention_mask=mask))


# The report


def test_the_report_tells_the_routes():
    options, one, two = mixed()
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", **options) as patch:
        assert patch.report().omega is None
        logits(model, **batch(one, two))
        report, gates = patch.report(), gates_of(patch)
        sparse = sum(not gate for row in gates.values() for gate in row)
        assert report.omega == report.to_dict()["omega"] == sparse / 4
        assert f"omega {sparse / 4:.3f}" in str(report)
        for site in report.sites:
            own = {"full": sum(gates[site.layer]), "sparse": 2 - sum(gates[site.layer])}
            assert site.routes == {way: count for way, count in own.items() if count}
        patch.reset()
        assert patch.report().omega is None


def test_prompts_back_to_back_decide_anew():
    options, one, two = mixed()
    model = zoo.build("llama")
    alone = [generated(model, options, {"input_ids": ids}) for ids in (one, two)]
    with attnpatch.apply(model, "flux", **options) as patch:
        for ids, (tokens, expected, gates) in zip((one, two), alone, strict=True):
            assert same((tokens, expected), generated_logits(model, {"input_ids": ids}))
            assert gates_of(patch) == gates
    assert alone[0][2] != alone[1][2]
