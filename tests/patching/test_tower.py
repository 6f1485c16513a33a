"""What is read of the vision tower: against attention maps written out, and token by token where the model merges."""

from __future__ import annotations

import threading

import pytest
import torch
import transformers as tf
from transformers import AttentionInterface, AttentionMaskInterface

import attnpatch
from attnpatch.patching.tower import TowerRead
from attnpatch.patching.tower_tokens import TowerScores
from tests import zoo
from tests.methods.vision.prompts import FAMILIES, batch
from tests.snapshots import generated_logits, structure

CLS = ["llava", "llava_next", "internvl"]
QWEN = [family for family in FAMILIES if family.startswith("qwen")]


class Reader(attnpatch.Method):
    """Changes nothing and keeps what it finds."""

    name = "reader"
    needs_images = True

    def __init__(self, *reads: TowerRead) -> None:
        super().__init__()
        self.reads = set(reads)
        self.found, self.placed = {}, {}

    @property
    def tower_reads(self):
        return self.reads

    def begin(self, forward):
        tower = forward.given.tower
        self.found = tower.entries
        self.placed = {read: tower.placed(one, forward.images.mask) for read, one in tower.entries.items()}

    def attend(self, call, inner):
        return inner(call)


def read(model, inputs, *reads: TowerRead, run=None) -> Reader:
    reader = Reader(*reads)
    with attnpatch.apply(model, reader), torch.no_grad():
        (run or model)(**inputs)
    return reader


def tower_of(model):
    inner = model.model
    return next(getattr(inner, name) for name in ("vision_tower", "vision_model", "visual") if hasattr(inner, name))


def maps(model, inputs) -> list[torch.Tensor]:
    """The tower's attention maps `[N, H, S, S]` by layer (and window), computed in full in float64."""
    found = []

    def recorded(module, query, key, value, attention_mask, scaling, **_):
        scores = query.double() @ key.double().mT * scaling
        if attention_mask is not None:
            hidden = ~attention_mask if attention_mask.dtype == torch.bool else attention_mask < -1e30
            scores = scores.masked_fill(hidden, -torch.inf)
        found.append(scores.softmax(-1))
        return (found[-1].to(value.dtype) @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("recorded", recorded)
    AttentionMaskInterface.register("recorded", AttentionMaskInterface()["sdpa"])
    config = tower_of(model).config
    before, config._attn_implementation_internal = config._attn_implementation_internal, "recorded"
    with torch.no_grad():
        model(**inputs)
    config._attn_implementation_internal = before
    return found


def others(attention: torch.Tensor, first: int = 0) -> torch.Tensor:
    """What each patch receives from the other ones on average, `[N, P]` from `[N, H, S, S]`."""
    patches = attention.sum(1)[:, first:, first:].clone()
    patches.diagonal(dim1=1, dim2=2).zero_()
    return patches.sum(1) / max(patches.shape[1] - 1, 1)


def bigger(family: str) -> tuple:
    """A model whose pictures have 8 x 8 patches, in two batch rows."""
    config = zoo.VLM_CONFIGS[family]()
    config.vision_config.image_size = [112, 112] if family == "internvl" else 112
    tokens = 16 if family == "internvl" else 64
    config.image_seq_length = tokens
    torch.manual_seed(0)
    model = tf.AutoModelForImageTextToText.from_config(config).eval()
    ids = torch.tensor([[1] + [zoo.IMAGE] * tokens + [5, 6, 7, 8]]).repeat(2, 1)
    return model, {"input_ids": ids, "pixel_values": torch.randn(2, 3, 112, 112)}


@pytest.mark.parametrize("layer", [0, -2, 1])
def test_the_class_token_s_row_is_that_of_eager_attention(layer):
    model, inputs = bigger("llava")
    reader = read(model, inputs, TowerRead(layer, "cls"))
    eager = tf.AutoModelForImageTextToText.from_config(model.config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        seen = eager.model.vision_tower(inputs["pixel_values"], output_attentions=True).attentions[layer]
    expected = seen[:, :, 0, 1:].sum(1)
    (found,) = reader.found.values()
    assert torch.allclose(torch.stack(found), expected, atol=1e-5)
    (placed,) = reader.placed.values()
    assert torch.equal(placed[:, 1:65], torch.stack(found))
    assert not placed[:, 65:].any()
    assert not placed[:, 0].any()


@pytest.mark.parametrize("family", ["llava", "internvl", "gemma3"])
def test_received_attention_leaves_out_the_class_token_and_oneself(family):
    model, inputs = (zoo.build(family), zoo.image_prompt(family)) if family == "gemma3" else bigger(family)
    full = maps(model, inputs)
    (found,) = read(model, inputs, TowerRead(0, "received")).found.values()
    expected = others(full[0], first=int(family != "gemma3"))
    if family == "internvl":
        expected = expected.unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1)
    assert torch.allclose(torch.stack(found).double(), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_either_is_the_class_token_where_there_is_one(family):
    model, inputs = zoo.build(family), zoo.image_prompt(family)
    either, other = TowerRead(0, "either"), TowerRead(0, "cls" if family in CLS else "received")
    found = read(model, inputs, either, other).found
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(*found.values(), strict=True))


@pytest.mark.parametrize("family", QWEN)
def test_windows_and_merged_patches_of_qwen(family):
    model = zoo.build(family)
    grid = [1, 8, 12]  # 4 x 6 tokens, in windows of 2 x 2 tokens where there are windows
    ids = torch.tensor([[1, 102] + [zoo.IMAGE] * 24 + [5, 6]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(96, 1176), "image_grid_thw": torch.tensor([grid])}
    inputs["mm_token_type_ids"] = (ids == zoo.IMAGE).long()
    full = maps(model, inputs)
    for layer in (0, 1):
        (found,) = read(model, inputs, TowerRead(layer, "received")).found.values()
        windows = full[: len(full) - 1] if layer == 0 and len(full) > 2 else [full[layer if len(full) == 2 else -1]]
        patches = torch.cat([others(one)[0] for one in windows])
        expected = patches.unflatten(0, (-1, 4)).mean(1)[origins(model, inputs)]
        assert torch.allclose(found[0].double(), expected, atol=1e-5)
        assert expected.std() > 1e-6


def origins(model, inputs) -> torch.Tensor:
    """For each image token the number of the merged patches that it is, in the order in which the tower has them."""

    def numbered(module, args, output):
        return torch.arange(len(output), dtype=output.dtype)[:, None].expand_as(output)

    tower = tower_of(model)
    handle = tower.merger.register_forward_hook(numbered)
    with torch.no_grad():
        found = tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output[:, 0].long()
    handle.remove()
    return found


@pytest.mark.parametrize("size", [(28, 28), (28, 40), (20, 56), (30, 10)])
@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_crops_are_unpadded_and_lines_end_in_tokens_without_a_patch(family, size):
    model = zoo.build(family)
    model.config.image_grid_pinpoints = [[28, 56], [56, 28], [56, 56]]
    crops = 5 if size == (28, 28) else 3
    pixels, sizes = torch.randn(1, 5, 3, 28, 28), torch.tensor([size])

    def numbered(module, args, output):
        count = output.shape[0] * output.shape[1]
        return torch.arange(count, dtype=output.dtype).view(*output.shape[:2], 1).expand_as(output)

    with torch.no_grad():
        model.model.image_newline.fill_(-1)
        handle = model.model.multi_modal_projector.register_forward_hook(numbered)
        entry = model.model.get_image_features(pixels, sizes).pooler_output[0][:, 0].long()
        handle.remove()
    ids = torch.tensor([[1] + [zoo.IMAGE] * len(entry) + [5, 6]])
    inputs = {"input_ids": ids, "pixel_values": pixels, "image_sizes": sizes}
    (found,) = read(model, inputs, TowerRead(0, "either")).found.values()
    full = maps(model, inputs)[0]
    patches = (full[:, :, 0, 1:].sum(1) if family == "llava_next" else others(full)).flatten()
    expected = torch.where(entry < 0, torch.nan, patches[entry.clamp(min=0)])
    assert 4 < (entry >= 0).sum() <= crops * 4
    assert torch.allclose(found[0].double(), expected, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("family", ["internvl", "idefics3"])
def test_a_token_of_shuffled_pixels_is_the_mean_of_its_block(family):
    model = zoo.build(family)
    numbers = torch.arange(16.0)
    if family == "internvl":
        shuffled = model.model.pixel_shuffle(
            numbers.view(1, 4, 4, 1).expand(1, 4, 4, 4).contiguous(), scale_factor=0.5
        )
    else:
        shuffled = model.model.connector.pixel_shuffle(numbers.view(1, 16, 1).expand(1, 16, 4).contiguous(), 2)
    blocks = shuffled.reshape(4, -1).long()
    inputs = zoo.image_prompt(family)
    full = maps(model, inputs)[0]
    patches = full[0, :, 0, 1:].sum(0) if family == "internvl" else others(full)[0]
    (found,) = read(model, inputs, TowerRead(0, "either")).found.values()
    assert torch.allclose(found[0].double(), patches[blocks].mean(1), atol=1e-5)


def test_padding_patches_count_for_nothing():
    model, inputs = zoo.build("idefics3"), zoo.image_prompt("idefics3")
    seen = torch.ones(1, 1, 56, 56, dtype=torch.long)
    seen[..., 28:, :] = 0
    inputs["pixel_attention_mask"] = seen
    (found,) = read(model, inputs, TowerRead(0, "received")).found.values()
    full = maps(model, inputs)[0]
    assert not full[0, :, :, 8:].any()
    patches = others(full[:, :, :8, :8])[0]
    expected = torch.cat([patches, torch.zeros(8)]).view(2, 2, 2, 2).mean((1, 3)).flatten()
    assert torch.allclose(found[0].double(), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_and_returned_sequences_repeat_the_prompts(family):
    model = zoo.build(family)
    inputs, _ = batch(family, text_row=True)
    which = TowerRead(0, "either")
    once = read(model, inputs, which).placed[which]
    for settings in ({"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}):

        def run(settings=settings, **inputs):
            return model.generate(**inputs, max_new_tokens=2, **settings)

        placed = read(model, inputs, which, run=run).placed[which]
        times = placed.shape[0] // 3
        # close, not equal: some versions of transformers run the tower on the repeated pictures
        assert torch.allclose(placed, once.repeat_interleave(times, 0), atol=1e-6, equal_nan=True)
    assert not once[2].any()


def test_hooks_come_and_go_with_who_asks():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    stock, before = generated_logits(model, inputs), structure(model)
    one, two = Reader(TowerRead(0, "cls")), Reader(TowerRead(1, "received"))
    first = attnpatch.apply(model, one)
    with attnpatch.apply(model, two):
        found = generated_logits(model, inputs)
        assert set(one.found) == {TowerRead(0, "cls"), TowerRead(1, "received")}
    assert all(torch.equal(a, b) for a, b in zip(stock, found, strict=True))
    generated_logits(model, inputs)
    assert set(one.found) == {TowerRead(0, "cls")}
    with first.disabled():
        assert structure(model)["attributes"]["model"].keys() == before["attributes"]["model"].keys()
    first.remove()
    assert structure(model) == before


def test_two_threads_keep_their_own():
    model, inputs = bigger("llava")
    reader, which = Reader(TowerRead(0, "cls")), TowerRead(0, "cls")
    alone = [{**inputs, "pixel_values": torch.randn(2, 3, 112, 112)} for _ in range(2)]
    expected = [read(model, one, which).placed[which] for one in alone]
    results: dict[int, list] = {0: [], 1: []}

    class Keep(Reader):
        def begin(self, forward):
            super().begin(forward)
            results[int(threading.current_thread().name)].append(self.placed[which])

    def work(number):
        for _ in range(6):
            with torch.no_grad():
                model(**alone[number])

    with attnpatch.apply(model, Keep(which)):
        threads = [threading.Thread(target=work, args=(n,), name=str(n)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert reader.found == {}
    for number in range(2):
        assert len(results[number]) == 6
        assert all(torch.allclose(one, expected[number], atol=1e-6) for one in results[number])


# what is refused


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in CLS])
def test_a_tower_without_class_token(family):
    model = zoo.build(family)
    before = structure(model)
    with pytest.raises(attnpatch.UnsupportedModelError, match=r"no class token.*no_cls='received'"):
        attnpatch.apply(model, Reader(TowerRead(0, "cls")))
    assert structure(model) == before


def test_a_layer_that_the_tower_does_not_have():
    with pytest.raises(attnpatch.UnsupportedModelError, match=r"2 layers, so there is no layer 7\. Allowed: -2 to 1"):
        attnpatch.apply(zoo.build("llava"), Reader(TowerRead(7, "cls")))


def test_a_tower_that_is_not_known():
    config = zoo.VLM_CONFIGS["llava"]()
    config.vision_config = tf.PixtralVisionConfig(**zoo.TOWER)
    model = tf.AutoModelForImageTextToText.from_config(config)
    with pytest.raises(attnpatch.UnsupportedModelError, match="not known for LlavaModel"):
        attnpatch.apply(model, Reader(TowerRead(0, "either")))


def test_images_encoded_before_the_patch():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    encoded = model.model.get_image_features(inputs.pop("pixel_values"))
    with (
        attnpatch.apply(model, Reader(TowerRead(0, "cls"))),
        pytest.raises(attnpatch.UnsupportedCallError, match="encoded before the patch"),
    ):
        model(**inputs, mm_encoder_outputs={"image": encoded})


def test_what_an_earlier_encoding_left_is_not_taken():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    pixels = inputs.pop("pixel_values")
    ours = model.model.get_image_features(pixels)
    with attnpatch.apply(model, Reader(TowerRead(0, "cls"))):
        model.model.get_image_features(pixels)  # of nobody's prompt
        with pytest.raises(attnpatch.UnsupportedCallError, match="not known"):
            model(**inputs, mm_encoder_outputs={"image": ours})


@pytest.mark.parametrize("tokens", [(4, 2), (12, 4), (0, 0)])
def test_images_of_another_prompt(tokens):
    scores = TowerScores(frozenset(), {}, [4, 4])
    mask = torch.arange(16) < torch.tensor(tokens)[:, None]
    with pytest.raises(attnpatch.UnsupportedCallError, match=r"image tokens, but .* encoded images of 8"):
        scores.placed([torch.ones(4), torch.ones(4)], mask)


def test_a_prompt_in_chunks():
    model, inputs = zoo.build("llava"), zoo.image_prompt("llava")
    with (
        attnpatch.apply(model, Reader(TowerRead(0, "cls"))),
        pytest.raises(attnpatch.UnsupportedCallError, match="prefill_chunk_size"),
    ):
        model.generate(**inputs, max_new_tokens=2, prefill_chunk_size=3)
