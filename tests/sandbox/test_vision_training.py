"""Training of the vision model: the losses fall, a packed row equals its prompts, a resumed run is the same run."""

from __future__ import annotations

import json

import pytest
import torch

from attnpatch.sandbox.vision import vocabulary as v
from attnpatch.sandbox.vision.model import build_model
from attnpatch.sandbox.vision.objective import answer, name_patches
from attnpatch.sandbox.vision.rows import PREFIX, patch_labels, train_batch, train_scenes
from attnpatch.sandbox.vision.train import Recipe, Run, train

RECIPE = Recipe(steps=8, rows=4, naming_rows=4, warmup=2, most_naming=3)


def tiny():
    return build_model(0, layers=2, hidden=64, vision_layers=1, vision_hidden=32)


def log(folder):
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "minutes"} for line in lines]


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_few_steps_lower_both_losses(tmp_path):
    recipe = Recipe(steps=50, rows=8, naming_rows=16, warmup=2, most_naming=20)
    model, rows = tiny(), train_batch(1, 0, 8)

    def losses():
        with torch.no_grad():
            loss, _, features = answer(model, rows, 1.0)
            table = model.get_input_embeddings().weight
            return loss.item(), name_patches(features.view(8, 36, -1), table, *rows.patches)[0].item()

    before = losses()
    train(tmp_path, progress=False, recipe=recipe, model=model)
    after = losses()
    assert after[0] < 0.8 * before[0]
    assert after[1] < 0.8 * before[1]
    assert [line["phase"] for line in log(tmp_path)] == ["naming", "answering", "answering"]
    assert log(tmp_path)[0]["climbed"]


def test_a_segment_of_a_packed_row_reads_as_a_prompt_of_its_own():
    batch = train_batch(0, 5, 2)
    model = tiny().eval()
    with torch.no_grad():
        packed = model.model(
            input_ids=batch.input_ids,
            pixel_values=batch.pixel_values,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
        ).last_hidden_state
    for row in range(2):
        visible = batch.attention_mask[row, 0]
        for end in (batch.labels[row] >= 0).nonzero().flatten().tolist()[::3]:
            tokens = batch.input_ids[row, visible[end]]
            assert tokens[: len(PREFIX)].tolist() == PREFIX
            with torch.no_grad():
                alone = model.model(input_ids=tokens[None], pixel_values=batch.pixel_values[row : row + 1])
            torch.testing.assert_close(alone.last_hidden_state[0, -1], packed[row, end], atol=1e-4, rtol=1e-4)


def test_rows_ask_for_every_shape_and_tell_the_truth():
    batch, chosen = train_batch(0, 2, 3), train_scenes(0, 2, 3)
    for row, scene in enumerate(chosen):
        words = [v.WORDS[label] for label in batch.labels[row].tolist() if label >= 0]
        assert words.count("yes") == len(scene.shapes)
        assert words.count("no") == len(v.SHAPES) - len(scene.shapes)
        assert words[: len(scene.caption.split()) + 1] == [*scene.caption.split(), v.EOS]
        shapes, colours = (grid[row].view(6, 6) for grid in patch_labels(chosen))
        for thing in scene.objects:
            down, right = divmod(thing.cell, 3)
            place = (2 * down + 1, 2 * right)
            assert (v.WORDS[shapes[place]], v.WORDS[colours[place]]) == (thing.shape, thing.colour)


@pytest.mark.parametrize("stops", [(2,), (5, 7)])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, stops):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, progress=False, recipe=RECIPE, model=tiny())
    assert not train(parts, progress=False, recipe=RECIPE, model=tiny(), minutes=1e-9).finished
    for stop in stops:
        _advance_to(parts, stop)
    assert train(parts, progress=False, recipe=RECIPE, model=tiny()).finished
    assert log(whole)[-1] == log(parts)[-1]
    expected, got = weights(whole), weights(parts)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def _advance_to(folder, step):
    """Continue a run to a step and stop it there, as a crash between checkpoints would."""
    run = Run(RECIPE, 0, tiny())
    run.restore(folder / "checkpoint.pt")
    while run.step < step:
        run.advance()
    run.save(folder / "checkpoint.pt")


def test_the_seed_decides_the_run(tmp_path):
    recipe = Recipe(steps=2, rows=2, naming_rows=2, most_naming=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, progress=False, recipe=recipe, seed=seed, model=tiny())
    name = next(key for key in weights(tmp_path / "a") if key.endswith("embed_tokens.weight"))
    a, b, c = (weights(tmp_path / folder)[name] for folder in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_written_folder_loads_and_names_its_making(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    train(tmp_path, progress=False, recipe=Recipe(steps=1, rows=2, naming_rows=2), model=tiny())
    model, processor = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    inputs = processor(
        images=train_scenes(0, 0, 1)[0].image, text="USER: <image> What? ASSISTANT:", return_tensors="pt"
    )
    assert model(**inputs).logits.shape == (1, inputs["input_ids"].shape[1], len(v.WORDS))
    settings = json.loads((tmp_path / "training_config.json").read_text())
    assert settings["command"] == "attnpatch sandbox train vision"
    assert settings["recipe"]["steps"] == settings["step"] == 1


def test_bad_requests_are_refused(tmp_path):
    for name, value in (("steps", 0), ("minutes", -1)):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            train(tmp_path, **{name: value})
    train(tmp_path, progress=False, recipe=Recipe(steps=1, rows=1, naming_rows=1), model=tiny())
    with pytest.raises(ValueError, match="made with seed 0, not 3"):
        train(tmp_path, progress=False, seed=3, recipe=RECIPE, model=tiny())
