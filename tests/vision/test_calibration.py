"""Calibration from images to a profile that `apply` takes, on a small LLaVA with a real processor."""

from __future__ import annotations

import pytest
from PIL import Image

import attnpatch
from attnpatch.methods.vision.profile import read_profile
from attnpatch.vision import calibrate
from attnpatch.vision.calibration import image_files, opened_image
from attnpatch.vision.prompts import prompt_inputs, prompt_text
from tests.evaluation.vision.conftest import make_processor
from tests.methods.vision import planted
from tests.snapshots import structure
from tests.zoo import IMAGE, build


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 200, 10)).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_prompts_are_those_of_the_processor(processor):
    assert prompt_text(processor, "Is there a cat ?") == "USER: <image> Is there a cat ? ASSISTANT:"
    assert prompt_text(make_processor(chat=False), "Is there a cat ?") == "<image>\nIs there a cat ?"
    inputs = prompt_inputs(build("llava").half(), processor, Image.new("RGB", (28, 28)), "Is there a cat ?")
    assert (inputs["input_ids"] == IMAGE).sum() == 4
    assert inputs["input_ids"][0, 0] == 1
    assert (inputs["input_ids"] == 1).sum() == 1
    assert str(inputs["pixel_values"].dtype) == "torch.float16"


def test_a_profile_from_a_folder_is_taken_by_apply(processor, folder, tmp_path):
    model = planted.build()
    with planted.planted(model.model.language_model.layers, [0, 3]):
        files = image_files(folder, 2)
        profile = calibrate(model, processor, "var", files, ["Is there a cat ?"], command="attnpatch calibrate var x")
    assert set(profile.options["dims"]) == set(planted.DIMS)
    assert profile.details["images"] == len(files) == 2
    file = profile.write(tmp_path / "var.json")
    assert read_profile(str(file), "var") == profile
    with attnpatch.apply(model, "var", profile=str(file)) as patch:
        assert set(patch.methods[0].config.dims) == set(planted.DIMS)
    assert not attnpatch.patches(model)


def test_the_processor_of_another_model():
    wrong, images = make_processor(), [Image.new("RGB", (28, 28))]
    wrong.patch_size = 28
    with pytest.raises(attnpatch.AttnPatchError, match=r"do not match.* The processor may belong to another model"):
        calibrate(build("llava"), wrong, "vhr", images, "Is there a cat ?")


@pytest.mark.parametrize("method", ["vhr", "gift"])
def test_the_other_methods_are_calibrated_too(method, processor):
    images = [Image.new("RGB", (28, 28), (100 * number, 9, 9)) for number in range(2)]
    profile = calibrate(build("llava"), processor, method, images, "Is there a cat dog ?")
    assert profile.options
    assert profile.details


def test_questions_take_turns(processor, monkeypatch):
    seen = []

    def kept(cls, model, batches):
        seen.extend(inputs["input_ids"].shape[1] for inputs in batches)
        return {"dims": [1]}

    monkeypatch.setattr(attnpatch.methods()["var"], "calibrate", classmethod(kept))
    images = [Image.new("RGB", (28, 28))] * 3
    calibrate(build("llava"), processor, "var", images, ["cat", "cat dog x x"])
    assert seen[0] == seen[2] == seen[1] - 3
    assert calibrate(build("llava"), processor, "var", images, "cat").options == {"dims": [1]}


def test_what_is_measured_must_be_something_the_method_takes(processor, monkeypatch):
    monkeypatch.setattr(attnpatch.methods()["var"], "calibrate", classmethod(lambda cls, *_: {"dimz": [1]}))
    with pytest.raises(attnpatch.AttnPatchError, match="dimz"):
        calibrate(build("llava"), processor, "var", [Image.new("RGB", (28, 28))])


def test_bad_input_changes_nothing(processor, folder):
    model = build("llava")
    before, image = structure(model), Image.new("RGB", (28, 28))
    with pytest.raises(attnpatch.AttnPatchError, match=r"'pai' has nothing to calibrate. Allowed: .*var"):
        calibrate(model, processor, "pai", [image])
    with pytest.raises(attnpatch.AttnPatchError, match="Did you mean 'gift'"):
        calibrate(model, processor, "gfit", [image])
    with pytest.raises(attnpatch.AttnPatchError, match="needs images"):
        calibrate(model, processor, "var", [])
    (folder / "broken.png").write_bytes(b"\x89PNG not")
    with pytest.raises(attnpatch.AttnPatchError, match=r"broken\.png.*cannot be read"):
        calibrate(model, processor, "var", [folder / "broken.png"])
    assert structure(model) == before
    with attnpatch.apply(model, "stock"), pytest.raises(attnpatch.AttnPatchError, match="patched with stock"):
        calibrate(model, processor, "var", [image])


def test_image_files(folder):
    assert [file.name for file in image_files(folder, 9)] == ["0.png", "1.png", "2.png"]
    assert image_files(folder / "1.png", 9) == [folder / "1.png"]
    assert opened_image(folder / "1.png").mode == "RGB"
    with pytest.raises(attnpatch.AttnPatchError, match="does not exist"):
        image_files(folder / "none", 9)
    (folder / "empty").mkdir()
    with pytest.raises(attnpatch.AttnPatchError, match="holds no image"):
        image_files(folder / "empty", 9)
