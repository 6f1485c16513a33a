"""Profiles: what is read back, who wins, and what is refused before anything changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import attnpatch
from attnpatch.methods.vision.profile import Profile, read_profile
from attnpatch.methods.vision.var import VAR, VARConfig
from attnpatch.patching.method import build_config
from tests import zoo
from tests.snapshots import structure

FOUND = {"dims": [30, 31], "tau": 1.0, "layers": "all", "details": {"images": 3}}


@pytest.fixture
def written(tmp_path):
    profile = Profile.of("var", zoo.build("llava").config.get_text_config(), FOUND, "attnpatch calibrate var x")
    return str(profile.write(tmp_path / "deep" / "var.json"))


def test_it_is_read_as_it_was_written(written):
    found = read_profile(written, "var")
    assert found.options == {key: FOUND[key] for key in ("dims", "tau", "layers")}
    assert found.details == {"images": 3}
    assert found.command == "attnpatch calibrate var x"
    assert set(found.versions) == {"torch", "transformers"}
    assert found.model["hidden_size"] == 32


def test_it_fills_options_and_explicit_ones_win(written):
    with attnpatch.apply(zoo.build("llava"), "var", profile=written, tau=1.5, rho=0.1) as patch:
        config = patch.methods[0].config
        assert patch.methods[0].dims.tolist() == [30, 31]
    assert (config.tau, config.rho, config.p) == (1.5, 0.1, 0.4)
    assert VAR(config=VARConfig(profile=written)).config.dims == (30, 31)
    resolved = build_config(VAR, {"profile": written}).model_dump(mode="json")
    assert resolved["dims"] == [30, 31]  # so that results record what ran
    assert build_config(VAR, resolved) == build_config(VAR, {"profile": written})
    assert build_config(VAR, {"profile": written, "p": "0.3"}, from_text=True).dims == (30, 31)


def test_a_model_of_another_architecture_is_refused(written):
    model = zoo.build("llava_onevision")
    before = structure(model)
    with pytest.raises(attnpatch.UnsupportedModelError, match=r"model_type is 'qwen2', not 'llama'.*calibrate var"):
        attnpatch.apply(model, "var", profile=written)
    assert structure(model) == before


def changed(file: str, **values) -> str:
    path = Path(file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return file


@pytest.mark.parametrize(
    "values, words",
    [
        ({"method": "vhr"}, "for method 'vhr', not for 'var'"),
        ({"format": 9}, "newer attnpatch"),
        ({"options": {"dims": "many"}}, "option dims"),
        ({"options": {"dim": [1]}}, "option dim: Extra inputs"),
        ({"options": 3}, "options: Input should be"),
        ({"methods": "var"}, "methods: Extra inputs"),
    ],
)
def test_damaged_and_foreign_profiles(written, values, words):
    with pytest.raises(attnpatch.AttnPatchError, match=words):
        VAR(profile=changed(written, **values))


def test_files_that_are_none(tmp_path):
    with pytest.raises(attnpatch.AttnPatchError, match=r"does not exist.*attnpatch calibrate var MODEL"):
        VAR(profile=str(tmp_path / "none.json"))
    with pytest.raises(attnpatch.AttnPatchError, match="cannot be read"):
        VAR(profile=str(tmp_path))
    (tmp_path / "broken.json").write_text('{"method": ')
    with pytest.raises(attnpatch.AttnPatchError, match="cannot be read: Invalid JSON"):
        VAR(profile=str(tmp_path / "broken.json"))


def test_a_method_without_calibration_says_so():
    with pytest.raises(attnpatch.AttnPatchError, match="'pai' has nothing to calibrate"):
        attnpatch.methods()["pai"].calibrate(None, [])
