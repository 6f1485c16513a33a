"""Several processes give what one gives."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import yaml

from attnpatch.training.model_card import values_of

from .runs import log_of, routed, run, save_model, state_of, tensors


def test_two_processes_are_as_good_as_one(tmp_path):
    """`accelerate launch` with two processes: the same parameters within float error, and the same log."""
    model = save_model(tmp_path / "model")
    shape = {"pack_tokens": 256, "packs_per_step": 4, "max_tokens": 128}
    given, alone = (
        routed(
            model,
            tmp_path / name,
            lora={"r": 2, "lora_dropout": 0.3},
            data={
                "sources": [
                    {"task": "far", "omega": 0.5, "sandbox": ["needle", "copy"], "lengths": [128]},
                    {"task": "near", "omega": 1.0, "sandbox": ["local"], "lengths": [64]},
                ],
                **shape,
            },
            training={"max_steps": 3},
        )
        for name in ("two", "one")
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values_of(given), sort_keys=False))
    # On CPUs accelerate starts one process only, unless it is told otherwise.
    command = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
    done = subprocess.run(
        [sys.executable, *command.split(), "-m", "attnpatch.training", str(recipe)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wrote ") == 1, done.stderr  # by one of them
    run(alone)
    for line, expected in zip(log_of(tmp_path / "two"), log_of(tmp_path / "one"), strict=True):
        assert line.keys() == expected.keys()
        for key, value in expected.items():
            wanted = pytest.approx(value, abs=2e-5) if isinstance(value, float) else value
            assert line[key] == wanted, key
    two, one = (tensors(state_of(tmp_path / name, 3)["trained"]) for name in ("two", "one"))
    assert two.keys() == one.keys()
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, atol=2e-6), name
    assert any("lora_B" in name and tensor.abs().max() > 1e-5 for name, tensor in one.items())  # there was something
