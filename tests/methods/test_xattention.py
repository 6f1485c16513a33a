"""xattention against its sheet: what it keeps, in which phase, and what it refuses."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import attnpatch
from attnpatch.methods.xattention import XAttention
from tests import zoo
from tests.methods.masks import one_layer, tokens

N = 46  # blocks of 8: five whole ones and a part
SMALL = {"stride": 2, "block": 8, "threshold": 0.6}


def kept_blocks(q, k, stride: int, block: int, threshold: float, share: bool = False) -> torch.Tensor:
    """The sheet's formulas, one head and one pair of groups at a time: q [H, N, D], k [Hkv, N, D] -> [H, n, n]."""
    heads, count = q.shape[0], -(-q.shape[1] // block)
    group = heads // k.shape[0]
    pad = (0, 0, 0, count * block - q.shape[1])
    real = -(-q.shape[1] // stride)
    q, k = (torch.nn.functional.pad(x.double(), pad).unflatten(1, (-1, stride)) for x in (q, k))
    scores = torch.einsum("husd,hvsd->huv", q.flip(2), k.repeat_interleave(group, 0)) / (stride * q.shape[-1] ** 0.5)
    u, v = torch.arange(scores.shape[1])[:, None], torch.arange(scores.shape[1])
    weights = scores.masked_fill(v > u, -torch.inf).softmax(2) * (u < real)
    size = block // stride
    mass = weights.unflatten(1, (count, size)).unflatten(3, (count, size)).sum((2, 4))
    if share:
        mass = mass.unflatten(0, (-1, group)).mean(1).repeat_interleave(group, 0)
    keep = torch.zeros_like(mass, dtype=torch.bool)
    for h in range(heads):
        for a in range(count):
            chosen = {0, a}
            for c in sorted(range(1, a), key=lambda c: -mass[h, a, c].item()):
                if mass[h, a, sorted(chosen)].sum() < threshold * mass[h, a].sum():
                    chosen.add(c)
            keep[h, a, sorted(chosen)] = True
    return keep


def mask_of(keep: torch.Tensor, block: int, n: int) -> torch.Tensor:
    """[H, n, n]."""
    mask = keep.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :n, :n]
    return mask & torch.ones(n, n, dtype=torch.bool).tril()


def sharp(layers: int = 1):
    """A model whose attention is far from even, so that blocks differ in mass."""
    model = one_layer(num_hidden_layers=layers)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.mul_(12)
        layer.self_attn.k_proj.weight.data.mul_(12)
    return model


@pytest.fixture
def seen(monkeypatch):
    """Every (query, key, rule) of one row that the method decided on."""
    calls = []
    real = XAttention.rule

    def spy(self, call, row, start, stop):
        rule = real(self, call, row, start, stop)
        calls.append((call.query[row, :, start:stop], call.key[row, :, start:stop], rule))
        return rule

    monkeypatch.setattr(XAttention, "rule", spy)
    return calls


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def run(model, ids, mask):
    return logits(model, ids, attention_mask=mask[None])


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("n", [N, 48, 25, 41])
def test_the_model_under_the_method_is_the_model_under_the_mask(n, share, seen):
    model, ids = sharp(), tokens(n)
    with attnpatch.apply(model, "xattention", **SMALL, share_group=share) as patch:
        found = logits(model, ids)
        keys = patch.report().mean_keys
    ((q, k, rule),) = seen
    keep = kept_blocks(q, k, 2, 8, 0.6, share)
    assert torch.equal(rule.kept, keep[:, 2:])
    mask = mask_of(keep, 8, n)
    assert not torch.equal(mask, mask_of(torch.ones_like(keep), 8, n))
    assert torch.equal(keep[0], keep[1]) == share
    assert torch.allclose(found, run(model, ids, mask), atol=1e-5)
    assert keys == pytest.approx(mask.sum().item() / 4 / n)


def test_rows_of_a_batch_choose_for_themselves(seen):
    model, rows = sharp(), [tokens(N, 1), tokens(30, 2)]
    with attnpatch.apply(model, "xattention", **SMALL) as patch:
        alone = [logits(model, row) for row in rows]
        for left in (True, False):
            seen.clear()
            at = slice(N - 30, N) if left else slice(0, 30)
            ids, mask = torch.zeros(2, N, dtype=torch.long), torch.zeros(2, N, dtype=torch.long)
            ids[0], ids[1, at], mask[0], mask[1, at] = rows[0][0], rows[1][0], 1, 1
            patch.reset()
            found = logits(model, ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
            assert torch.allclose(found[0], alone[0][0], atol=1e-5)
            assert torch.allclose(found[1, at], alone[1][0], atol=1e-5)
            pairs = [rule.pairs(0, n, n) for (_, _, rule), n in zip(seen, (N, 30), strict=True)]
            assert patch.report().mean_keys == pytest.approx(sum(pairs) / (N + 30))


def test_a_short_row_stays_dense_beside_a_long_one():
    model, ids = sharp(), torch.cat([tokens(N, 1), tokens(N, 2)])
    mask = torch.ones(2, N, dtype=torch.long)
    mask[1, : N - 16] = 0
    stock = logits(model, ids[1:, N - 16 :])
    with attnpatch.apply(model, "xattention", **SMALL):
        found = logits(model, ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    assert torch.allclose(found[1, N - 16 :], stock[0], atol=1e-5)


def test_later_blocks_never_influence_earlier_ones():
    model, ids = sharp(), tokens(N)
    changed = ids.clone()
    changed[0, 32:] = (changed[0, 32:] + 17) % 90 + 3
    with attnpatch.apply(model, "xattention", **SMALL):
        one, two = logits(model, ids), logits(model, changed)
    assert torch.allclose(one[:, :32], two[:, :32], atol=1e-6)
    assert not torch.allclose(one[:, 32:], two[:, 32:], atol=1e-3)


def test_generated_tokens_see_all_keys(seen):
    model, ids = sharp(), tokens(N)
    with attnpatch.apply(model, "xattention", **SMALL) as patch, torch.no_grad():
        out = model(input_ids=ids[:, :38], use_cache=True)
        found = [out.logits]
        for at in range(38, N):
            out = model(input_ids=ids[:, at : at + 1], past_key_values=out.past_key_values)
            found.append(out.logits)
        ((q, k, _),) = seen
        mask = torch.ones(4, N, N, dtype=torch.bool).tril()
        mask[:, :38, :38] = mask_of(kept_blocks(q, k, 2, 8, 0.6), 8, 38)
        with patch.prompt(38):  # the whole text in one forward, the end of the prompt declared
            again = logits(model, ids)
    assert torch.equal(seen[0][2].kept, seen[1][2].kept)
    expected = run(model, ids, mask)
    assert torch.allclose(torch.cat(found, 1), expected, atol=1e-5)
    assert torch.allclose(again, expected, atol=1e-5)


def generate(model, ids, **options):
    with torch.no_grad():
        out = model.generate(
            ids, max_new_tokens=3, min_new_tokens=3, do_sample=False, output_logits=True, pad_token_id=0,
            return_dict_in_generate=True, **options,
        )  # fmt: skip
    return torch.stack(out.logits)


@pytest.mark.parametrize("chunk", [8, 16, 24])
def test_chunks_that_end_on_blocks_equal_one_shot(chunk):
    model, ids = sharp(2), tokens(N)
    with attnpatch.apply(model, "xattention", **SMALL) as patch:
        expected = generate(model, ids)
        with patch.prompt(N):
            assert torch.allclose(generate(model, ids, prefill_chunk_size=chunk), expected, atol=1e-4)


def test_chunks_that_end_inside_a_block_are_refused():
    model, ids = sharp(), tokens(N)
    with attnpatch.apply(model, "xattention", **SMALL) as patch:
        with patch.prompt(N), pytest.raises(attnpatch.UnsupportedCallError, match="multiples of 8 tokens"):
            generate(model, ids, prefill_chunk_size=20)
        with patch.prompt(N), pytest.raises(attnpatch.UnsupportedCallError, match="token 20 of row 0"):
            logits(model, ids[:, :20])  # before the rest has come
        with pytest.raises(attnpatch.UnsupportedCallError, match=r"patch\.prompt"):
            generate(model, ids, prefill_chunk_size=16)
        # The first two blocks are kept whatever they hold: a chunk may end inside them.
        with patch.prompt(N), torch.no_grad():
            expected = model(input_ids=ids).logits
            out = model(input_ids=ids[:, :13], use_cache=True)
            rest = model(input_ids=ids[:, 13:], past_key_values=out.past_key_values)
            assert torch.allclose(torch.cat([out.logits, rest.logits], 1), expected, atol=1e-5)


def test_chunks_are_counted_from_each_rows_first_token():
    model, ids = sharp(), torch.cat([tokens(N, 1), tokens(N, 2)])
    mask = torch.ones(2, N, dtype=torch.long)
    mask[1, :8] = 0
    at = (mask.cumsum(1) - 1).clamp(min=0)
    with attnpatch.apply(model, "xattention", **SMALL) as patch, patch.prompt(N), torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, position_ids=at).logits

        def in_two(mask, at, cut=32):
            out = model(input_ids=ids[:, :cut], attention_mask=mask[:, :cut], position_ids=at[:, :cut], use_cache=True)
            cache = out.past_key_values
            rest = model(input_ids=ids[:, cut:], attention_mask=mask, position_ids=at[:, cut:], past_key_values=cache)
            return torch.cat([out.logits, rest.logits], 1)

        assert torch.allclose(in_two(mask, at), expected, atol=1e-5)
        mask[1, 8:10] = 0
        with pytest.raises(attnpatch.UnsupportedCallError, match="token 22 of row 1"):
            in_two(mask, (mask.cumsum(1) - 1).clamp(min=0))


def test_a_row_that_ends_early_takes_no_part_in_later_chunks():
    """Right padding behind the row's last chunk: where its padding is cut does not matter."""
    model, ids = sharp(), torch.cat([tokens(N, 1), tokens(N, 2)])
    mask = torch.ones(2, N, dtype=torch.long)
    mask[0, :8], mask[1, :3], mask[1, 30:] = 0, 0, 0
    at = (mask.cumsum(1) - 1).clamp(min=0)
    with attnpatch.apply(model, "xattention", **SMALL) as patch, patch.prompt(N), torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, position_ids=at).logits
        out = model(input_ids=ids[:, :32], attention_mask=mask[:, :32], position_ids=at[:, :32], use_cache=True)
        cache = out.past_key_values
        rest = model(input_ids=ids[:, 32:], attention_mask=mask, position_ids=at[:, 32:], past_key_values=cache)
    real = mask.bool()
    assert torch.allclose(torch.cat([out.logits, rest.logits], 1)[real], expected[real], atol=1e-5)


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"threshold": 2.0, "stride": 2, "block": 8}, {}])
def test_neutral(options):
    """threshold 1, and any prompt of one block."""
    model, ids = sharp(2), tokens(N)
    stock = logits(model, ids)
    with attnpatch.apply(model, "xattention", **options):
        assert torch.equal(stock, logits(model, ids))


def test_the_layers_own_scale_is_scored():
    model, ids = sharp(), tokens(N)
    with attnpatch.apply(model, "xattention", **SMALL):
        before = logits(model, ids)
        for layer in model.model.layers:  # the same scores in another way
            layer.self_attn.scaling *= 4
            layer.self_attn.q_proj.weight.data.div_(4)
        assert torch.allclose(before, logits(model, ids), atol=1e-5)


def test_lists_die_with_their_forward(monkeypatch):
    """The budget is counted lazily, but not from lists that would have to wait for a report."""
    rules = []
    real = XAttention.rule

    def spy(self, *arguments):
        rule = real(self, *arguments)
        rules.append(weakref.ref(rule))
        return rule

    monkeypatch.setattr(XAttention, "rule", spy)
    model, ids = sharp(2), tokens(N)
    with attnpatch.apply(model, "xattention", **SMALL) as patch:
        logits(model, ids)
        gc.collect()
        assert [rule() for rule in rules] == [None, None]
        assert 1 < patch.report().mean_keys < (N + 1) / 2


def test_layers_with_a_window_of_their_own_are_left_alone():
    model = zoo.build("gemma3_text")
    with attnpatch.apply(model, "xattention", **SMALL) as patch:
        report = patch.report()
    assert len(report.sites) == 1
    assert "window of its own" in str(report)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"stride": 6}, "block=128 must be a multiple of stride=6, for example 126"),
        ({"stride": 16, "block": 8}, "for example 16"),
        ({"chunk": 100}, "chunk=100 must be 'auto' or a multiple of block=128"),
        ({"chunk": 0}, "multiple of block=128"),
        ({"threshold": 0.0}, "threshold"),
        ({"select": "diagonal"}, "select"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(attnpatch.AttnPatchError, match=words):
        XAttention(**options)


@pytest.mark.parametrize("chunk", ["auto", "256"])
def test_options_from_the_command_line(chunk):
    from attnpatch.patching.method import build_config

    config = build_config(XAttention, {"chunk": chunk, "threshold": "0.8"}, from_text=True)
    assert str(config.chunk) == chunk
