"""Stopping and going on: checkpoints, and that a run in pieces is the run in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnpatch.patching.errors import AttnPatchError
from attnpatch.training.checkpoints import STATE_FILE, Checkpoints
from attnpatch.training.problems import TrainingError
from attnpatch.training.run import Run

from .runs import log_of, routed, run, same, save_model, state_of


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(routed(model, folder, lora={"r": 2, "lora_dropout": 0.3}))
    return folder


def given(model, folder, **training):
    """Routers and an adapter with dropout: everything that has a state."""
    return routed(model, folder, lora={"r": 2, "lora_dropout": 0.3}, training=training)


def steps_in(folder: Path) -> list[int]:
    return Checkpoints(folder, None).steps()


def test_a_run_in_pieces_is_the_run_in_one(model, whole, tmp_path):
    first = run(given(model, tmp_path), steps=1)
    assert (first.step, first.finished, first.last["step"]) == (1, False, 1)
    assert not (tmp_path / "router").exists()
    second = run(given(model, tmp_path), steps=2)
    assert (second.step, second.finished) == (3, False)
    torch.manual_seed(99)  # whatever the process did before
    last = run(given(model, tmp_path))
    assert (last.step, last.finished) == (4, True)
    assert same(state_of(tmp_path, 4), state_of(whole, 4))
    assert log_of(tmp_path) == log_of(whole)
    for file in ("router/attnpatch.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / file).read_bytes() == (whole / file).read_bytes()
    assert run(given(model, tmp_path)).step == 4  # there is nothing left to do
    assert log_of(tmp_path) == log_of(whole)


def test_what_methods_draw_goes_on_too(model, tmp_path):
    """Stochastic attention numbers the sequences it sees; after a resume it draws as it would have."""
    folders = [tmp_path / name for name in ("whole", "pieces")]
    recipes = [
        routed(
            model, folder, method={"name": "stochastic", "options": {"window": 4}}, router=None, lora={"r": 2},
            training={"max_steps": 2},
        )
        for folder in folders
    ]  # fmt: skip
    run(recipes[0])
    run(recipes[1], steps=1)
    run(recipes[1])
    assert same(state_of(folders[0], 2), state_of(folders[1], 2))
    assert log_of(folders[0]) == log_of(folders[1])


def test_sparse_logging_has_the_same_lines_in_pieces(model, tmp_path):
    settings = given(model, tmp_path, logging_steps=3, max_steps=4)
    run(settings, steps=2)
    assert log_of(tmp_path) == []
    run(settings)
    assert [line["step"] for line in log_of(tmp_path)] == [3, 4]


def test_lines_behind_the_checkpoint_are_forgotten(model, whole, tmp_path):
    run(given(model, tmp_path), steps=2)
    with (tmp_path / "train_log.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 0}\n{"step": 4, "lo')  # of a process that was killed
    run(given(model, tmp_path))
    assert log_of(tmp_path) == log_of(whole)


@pytest.mark.parametrize("keep, expected", [(2, [3, 4]), (1, [4]), (None, [1, 2, 3, 4])])
def test_old_checkpoints_go(model, tmp_path, keep, expected):
    run(given(model, tmp_path, save_steps=1, save_total_limit=keep))
    assert steps_in(tmp_path) == expected


def test_damaged_checkpoints(model, whole, tmp_path):
    run(given(model, tmp_path, save_steps=1), steps=2)
    file = tmp_path / "checkpoints" / "step-000002" / STATE_FILE
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"step-000002 cannot be read: .*Delete its folder .*--restart"):
        run(given(model, tmp_path))
    file.unlink()
    file.parent.rmdir()
    run(given(model, tmp_path))
    assert same(state_of(tmp_path, 4), state_of(whole, 4))


def test_checkpoints_that_were_not_written_to_their_end(model, whole, tmp_path):
    run(given(model, tmp_path), steps=2)
    part = tmp_path / "checkpoints" / "step-000003.tmp"
    part.mkdir()
    (part / STATE_FILE).write_bytes(b"half")
    run(given(model, tmp_path))
    assert same(state_of(tmp_path, 4), state_of(whole, 4))


def test_another_recipe(model, tmp_path):
    """It is refused before it changes anything; what does not decide what is trained may differ."""
    run(given(model, tmp_path), steps=1)
    kept = (tmp_path / "recipe.yaml").read_text()
    other = routed(model, tmp_path, lora={"r": 2, "lora_dropout": 0.3}, router={"pool": 7})
    with pytest.raises(TrainingError, match=r"another recipe \(router.pool: 4 there, 7 here\)") as error:
        run(other)
    assert "--restart" in str(error.value)
    assert (tmp_path / "recipe.yaml").read_text() == kept
    assert steps_in(tmp_path) == [1]
    assert run(given(model, tmp_path, save_steps=2, logging_steps=2, bf16=True), steps=1).step == 2


def test_restart(model, tmp_path):
    run(given(model, tmp_path), steps=2)
    other = routed(model, tmp_path, router={"pool": 7}, training={"max_steps": 3})
    with pytest.raises(AttnPatchError, match="does not exist"):
        run(other.model_copy(update={"model": str(tmp_path / "nothing")}), restart=True)
    assert steps_in(tmp_path) == [2]  # what cannot start takes nothing away
    done = run(other, restart=True, steps=1)
    assert (done.step, steps_in(tmp_path)) == (1, [1])
    assert [line["step"] for line in log_of(tmp_path)] == [1]


def test_interrupted_between_steps(model, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patches:

        def interrupted(self, pack, share, *, final, honest=Run._backward):
            if share.step == 3 and final:
                raise KeyboardInterrupt
            return honest(self, pack, share, final=final)

        patches.setattr(Run, "_backward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(given(model, tmp_path))
    assert steps_in(tmp_path) == [3]
    run(given(model, tmp_path))
    assert same(state_of(tmp_path, 4), state_of(whole, 4))


def test_interrupted_within_a_step(model, whole, tmp_path, monkeypatch):
    """Routers have moved, multipliers have not: no checkpoint is made of that; the last whole one counts."""
    with monkeypatch.context() as patches:

        def interrupted(self, *_, honest=Run._optimizers):
            optimizers, schedules = honest(self)

            def stop(*_):
                if self.step == 3:
                    raise KeyboardInterrupt

            optimizers[0].register_step_post_hook(stop)
            return optimizers, schedules

        patches.setattr(Run, "_optimizers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(given(model, tmp_path, save_steps=2))
    assert steps_in(tmp_path) == [2]
    run(given(model, tmp_path))
    assert same(state_of(tmp_path, 4), state_of(whole, 4))
