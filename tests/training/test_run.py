"""Runs: they learn, they are the same twice, and they stop in an orderly way when something is wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from attnpatch.patching.errors import AttnPatchError
from attnpatch.sandbox.text.vocabulary import ID
from attnpatch.training import run as run_module
from attnpatch.training.mixture import Mixture
from attnpatch.training.problems import TrainingError
from attnpatch.training.run import Run, require_even_share
from attnpatch.training.samples import Pack
from attnpatch.training.train import train

from .runs import log_of, routed, run, same, save_model, state_of


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Path:
    """Four steps without a break, a checkpoint at each."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(routed(model, folder, training={"save_steps": 1, "save_total_limit": None}))
    assert (done.step, done.finished, done.folder) == (4, True, folder)
    return folder


def test_the_log(whole):
    lines = log_of(whole)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {line["tokens"] for line in lines} <= set(range(150, 257))
    for line in lines:
        assert line["omega"].keys() == line["omega_sampled"].keys() == line["multipliers"].keys() == {"far", "near"}
        assert line["loss"] == pytest.approx(line["nll"] + line["regular"], abs=1e-5)
        assert line["grad_norm"] > 0
    assert lines[0]["temperature"] == 1.5
    assert lines[3]["temperature"] == 1.0  # ceil(0.6 * 4) = 3 steps of cosine
    assert lines[0]["learning_rate"] == 5e-4
    assert lines[-1]["multipliers"]["near"][0] > lines[0]["multipliers"]["near"][0]


def test_a_seed_gives_the_same_weights_twice(model, whole, tmp_path):
    run(routed(model, tmp_path / "again"))
    assert same(state_of(tmp_path / "again", 4), state_of(whole, 4))
    assert log_of(tmp_path / "again") == log_of(whole)
    run(routed(model, tmp_path / "other", training={"seed": 1}))
    assert not same(state_of(tmp_path / "other", 4), state_of(whole, 4))


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_it_learns(model, tmp_path, target):
    """Omega moves from one half to its target, and the loss falls with it."""
    sources = [{"task": "far", "omega": target, "sandbox": ["needle"], "lengths": [64]}]
    given = routed(
        model,
        tmp_path,
        data={"sources": sources, "packs_per_step": 1},
        router={"learning_rate": 3e-3, "multiplier_init": [1.0, 1.0]},
        training={"max_steps": 25},
    )
    run(given)
    lines = log_of(tmp_path)
    assert 0.25 <= lines[0]["omega"]["far"] <= 0.75
    for name in ("omega", "omega_sampled"):
        assert sum(line[name]["far"] for line in lines[-5:]) / 5 == pytest.approx(target, abs=0.1)
    assert sum(line["loss"] for line in lines[-5:]) / 5 < lines[0]["loss"] - 0.5
    assert lines[-1]["regular"] < 0.1


def test_what_is_kept(whole):
    state = state_of(whole, 4)
    assert {name.partition(".")[0] for name in state["trained"]} == {"routers", "multipliers"}
    assert state["trained"]["multipliers.linear"].shape == (2,)
    assert (len(state["optimizers"]), len(state["schedules"])) == (2, 2)


def poison(monkeypatch, step: int) -> list[str]:
    """From now on one sample of that step holds a word whose embedding is not a number; its id comes in the list."""
    ids = []

    def packs(self, at, honest=Mixture.packs):
        given = honest(self, at)
        if at != step:
            return given
        first, *rest = given[-1].samples
        bad = dataclasses.replace(first, input_ids=(*first.input_ids[:-1], ID["<unk>"]))
        ids.append(bad.id)
        return [*given[:-1], Pack((bad, *rest))]

    def broken(self, *args, honest=Run.__init__):
        honest(self, *args)
        self.trainee.model.get_input_embeddings().register_forward_hook(
            lambda _, tokens, out: out.masked_fill((tokens[0] == ID["<unk>"])[..., None], torch.nan)
        )

    monkeypatch.setattr(Mixture, "packs", packs)
    monkeypatch.setattr(Run, "__init__", broken)
    return ids


def test_a_loss_that_is_not_finite(model, whole, tmp_path, monkeypatch):
    """It stops before anything of that step is applied, names step, task and sample; on good data it goes on."""
    with monkeypatch.context() as patches:
        ids = poison(patches, step=2)
        with pytest.raises(TrainingError) as error:
            run(routed(model, tmp_path))
    text = str(error.value)
    assert isinstance(error.value, AttnPatchError)
    for part in ("step 3 is not finite (nan)", f"because of {ids[0]} (", "checkpoint step-000002", "--step 2"):
        assert part in text
    assert " and " not in text.partition("because of")[2].partition(").")[0]  # that sample alone
    assert same(state_of(tmp_path, 2), state_of(whole, 2))
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2]
    run(routed(model, tmp_path))
    assert same(state_of(tmp_path, 4), state_of(whole, 4))


def test_a_bad_first_step_leaves_no_checkpoint(model, tmp_path, monkeypatch):
    poison(monkeypatch, step=0)
    with pytest.raises(TrainingError, match=r"step 1 is not finite.*there was none before"):
        run(routed(model, tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_a_gradient_that_is_not_finite(model, whole, tmp_path, monkeypatch):
    def broken(self, pack, share, *, final, honest=Run._backward):
        found = honest(self, pack, share, final=final)
        if share.step == 1 and final:
            self.trainee.routers.layers["1"].head[0].weight.grad[0, 0] = torch.inf
        return found

    monkeypatch.setattr(Run, "_backward", broken)
    with pytest.raises(TrainingError, match=r"gradient of step 2 is not finite.*checkpoint step-000001"):
        run(routed(model, tmp_path))
    assert same(state_of(tmp_path, 1), state_of(whole, 1))


def test_packs_that_cannot_be_dealt_out(model, tmp_path):
    given = routed(model, tmp_path / "none", data={"packs_per_step": 6})
    require_even_share(given, 3)
    with pytest.raises(TrainingError, match="packs_per_step=6 cannot be dealt out evenly to 4 processes"):
        require_even_share(given, 4)


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_trackers_that_are_not_installed(tmp_path, tracker, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("attnpatch.training.train.find_spec", lambda name: None if name == tracker else found(name))
    given = routed(tmp_path / "no model is read", tmp_path / "none", training={"report_to": tracker})
    with pytest.raises(TrainingError, match=f"{tracker} is not installed: pip install {tracker}"):
        train(given)
    assert not (tmp_path / "none").exists()


@pytest.mark.filterwarnings("ignore:.*no supported trackers")
def test_trackers_get_flat_settings_and_numbers(model, tmp_path, monkeypatch):
    from accelerate import Accelerator

    settings, logged = {}, []
    monkeypatch.setattr("attnpatch.training.train.TRACKERS", {"wandb": ["torch"]})
    monkeypatch.setattr(Accelerator, "init_trackers", lambda _, name, config: settings.update(config))
    monkeypatch.setattr(Accelerator, "log", lambda _, values, step: logged.append((step, values)))
    run(routed(model, tmp_path, training={"report_to": "wandb", "logging_steps": 2}), steps=3)
    assert settings["router.learning_rate"] == 5e-4
    assert {type(value) for value in settings.values()} <= {str, int, float, bool}
    (step, values), *rest = logged
    assert (step, rest) == (2, [])
    assert {"loss", "omega/far", "multipliers/near/2"} <= values.keys()
    assert {type(value) for value in values.values()} <= {int, float}


def test_bf16_after_float32_in_one_process(model, tmp_path):
    """accelerate remembers the first precision of a process; a second run has its own."""
    seen = []
    for bf16 in (False, True):
        with pytest.MonkeyPatch.context() as patches:

            def spy(rows, honest=torch.nn.functional.linear):
                seen.append(torch.is_autocast_enabled("cpu"))
                return honest(rows, spy.weight)

            def head(self, rows):
                spy.weight = self.model.get_output_embeddings().weight
                return spy(rows)

            patches.setattr("attnpatch.training.trainee.Trainee._head", head)
            patches.setattr(run_module, "check_head", lambda _: None)
            run(routed(model, tmp_path / str(bf16), training={"bf16": bf16}), steps=1)
        assert set(seen) == {bf16}
        seen.clear()


def test_the_first_error_comes_before_the_model_is_read(tmp_path):
    given = routed(tmp_path / "nothing here", tmp_path / "out")
    with pytest.raises(AttnPatchError, match="does not exist"):
        run(given)
    assert not (tmp_path / "out").exists()


def test_data_without_a_row(model, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"q": "a", "a": ""}) + "\n")
    source = {
        "task": "far", "omega": 0.5, "files": str(tmp_path / "rows.jsonl"),
        "columns": {"question": "{q}", "answer": "{a}"},
    }  # fmt: skip
    with pytest.raises(AttnPatchError, match=r"none of its 1 rows can be used"):
        run(routed(model, tmp_path / "out", data={"sources": [source]}))
    assert not (tmp_path / "out").exists()
