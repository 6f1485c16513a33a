"""Training: the loss falls, a resumed run equals one that never stopped, and bad requests are refused."""

from __future__ import annotations

import json

import pytest
import torch

from attnpatch.sandbox.text.curriculum import LADDER, Curriculum, Recipe
from attnpatch.sandbox.text.mixture import FULL, train_batch
from attnpatch.sandbox.text.model import build_model
from attnpatch.sandbox.text.objective import loss_and_accuracy, narrowed
from attnpatch.sandbox.text.train import train

RECIPE = Recipe(steps=12, tokens_per_step=256, warmup=2, bf16=False)


def tiny():
    return build_model(0, layers=5, hidden=64)


def log(folder):
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "minutes"} for line in lines]


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_few_steps_lower_the_loss(tmp_path):
    model = tiny()
    batch = train_batch(1, 0, 16, 64, FULL)
    before = loss_and_accuracy(model, batch, 0.3, bf16=False)[0].item()
    done = train(tmp_path, progress=False, recipe=Recipe(steps=60, tokens_per_step=512, bf16=False), model=model)
    after = loss_and_accuracy(model, batch, 0.3, bf16=False)[0].item()
    assert done.finished
    assert done.step == 60
    assert done.last["tokens"] == 60 * 512
    assert after < 0.9 * before


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, progress=False, recipe=RECIPE, model=tiny())
    stopped = train(parts, progress=False, recipe=RECIPE, model=tiny(), minutes=1e-9)
    assert not stopped.finished
    for _ in range(2):
        _advance(parts, 5)
    done = train(parts, progress=False, recipe=RECIPE, model=tiny())
    assert done.finished
    assert log(whole) == log(parts)
    expected, got = weights(whole), weights(parts)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def _advance(folder, steps):
    """Continue a run by some steps and stop it again, as a crash between checkpoints would."""
    from attnpatch.sandbox.text.train import Run

    run = Run(RECIPE, 0, tiny())
    run.restore(folder / "checkpoint.pt")
    for _ in range(steps):
        run.advance()
    run.save(folder / "checkpoint.pt")


def test_the_seed_decides_the_run(tmp_path):
    recipe = Recipe(steps=3, tokens_per_step=128, bf16=False)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, progress=False, recipe=recipe, seed=seed, model=tiny())
    a, b, c = (weights(tmp_path / name)["model.embed_tokens.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_written_folder_loads_and_names_its_making(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train(tmp_path, progress=False, recipe=Recipe(steps=1, tokens_per_step=64, bf16=False), model=tiny())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model(**tokenizer("ask bax", return_tensors="pt")).logits.shape == (1, 3, len(tokenizer))
    settings = json.loads((tmp_path / "training_config.json").read_text())
    assert settings["command"] == "attnpatch sandbox train text"
    assert settings["recipe"]["steps"] == settings["step"] == 1


def test_bad_requests_are_refused(tmp_path):
    for name, value in (("steps", 0), ("minutes", -1)):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            train(tmp_path, **{name: value})
    train(tmp_path, progress=False, recipe=Recipe(steps=1, tokens_per_step=64, bf16=False), model=tiny())
    with pytest.raises(ValueError, match="made with seed 0, not 3"):
        train(tmp_path, progress=False, seed=3, recipe=RECIPE, model=tiny())


def test_the_ladder_is_climbed_by_accuracy_only():
    recipe, curriculum = Recipe(patience=3), Curriculum()
    for _ in range(500):
        assert not curriculum.record(recipe, 64, {"needles": 0.4}, clean=True)
    assert not curriculum.formed
    assert curriculum.length == 64
    while not curriculum.record(recipe, 64, {"needles": 1.0}, clean=True):
        pass
    assert curriculum.formed
    assert curriculum.length == LADDER[1]
    assert not any(curriculum.record(recipe, 64, {"needles": 1.0}, clean=True) for _ in range(99))
    assert not any(curriculum.record(recipe, 128, {"needles": 1.0}, clean=False) for _ in range(99))


def test_a_narrowed_layer_reaches_its_window_only():
    model = build_model(0, layers=1, hidden=64).eval()
    ids = torch.randint(4, 300, (1, 24))
    changed = ids.clone()
    changed[0, 4] += 1
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with narrowed(model, (0,), 8, 24):
            near, far = model(input_ids=ids).logits, model(input_ids=changed).logits
        assert torch.equal(model(input_ids=ids).logits, plain)
    moved = (near - far).abs().amax(-1)[0] > 0
    assert moved.nonzero().flatten().tolist() == list(range(4, 12))
