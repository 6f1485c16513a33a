"""Pictures that are there and cannot be decoded: named and counted before the model is loaded."""

from __future__ import annotations

import weakref

import pytest
from PIL import Image
from typer.testing import CliRunner

from attnpatch.cli.eval import app
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.loading import CheckpointSource
from attnpatch.evaluation.tasks.options import TaskOptions
from attnpatch.evaluation.vision.benchmarks import pope_documents
from attnpatch.evaluation.vision.prompts import Prompter
from tests.evaluation.vision.conftest import NAMES


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def no_picture(path):
    path.write_text("<html>not found</html>")


def too_large(path):
    Image.MAX_IMAGE_PIXELS = 500  # 40 * 40 is more than twice that


@pytest.mark.parametrize(
    "break_it, reason",
    [
        (truncated, "image file is truncated"),
        (no_picture, "it is no image, or of a kind that Pillow does not know"),
        (too_large, "exceeds limit of 1000 pixels"),
    ],
)
def test_broken_picture_stops_or_is_counted(run, data, monkeypatch, break_it, reason):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    for name in NAMES[:2]:
        Image.new("RGB", (20, 20), (9, 9, 9)).save(data / "images" / name)
    break_it(data / "images" / "three.jpg")
    with pytest.raises(UsageError, match=rf"pope, image 'three\.jpg': .*{reason}.*--on-bad skip"):
        run("pope")
    results = run("pope", vision={"on_bad": "skip"})
    cell = results.cells[0]
    assert (cell["status"], len(cell["documents"])) == ("ok", 18)
    assert cell["task"]["details"]["left_out"]["count"] == 1
    assert any("1 entries left out" in line and "three.jpg" in line for line in results.problems())


def test_a_broken_picture_stops_before_the_model_is_loaded(data, llava_folder, tmp_path, monkeypatch):
    truncated(data / "images" / "three.jpg")
    monkeypatch.setattr(CheckpointSource, "load", lambda *_: pytest.fail("the model was loaded"))
    words = ["run", "--model", llava_folder, "--methods", "stock", "--tasks", "pope", "--data-dir", data]
    found = CliRunner().invoke(app, [str(word) for word in (*words, "--output-path", tmp_path / "out")])
    assert found.exit_code == 2
    assert "three.jpg' cannot be decoded: image file is truncated" in " ".join(found.output.split())


def test_pictures_are_decoded_once_per_reading_and_not_kept(data, processor, monkeypatch):
    decoded, kept = [], []
    convert = Image.Image.convert

    def watched(image, *given):
        decoded.append(image.filename)
        found = convert(image, *given)
        kept.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Image.Image, "convert", watched)
    options = TaskOptions(data_dir=data)
    built = pope_documents(("random", "popular", "adversarial"))(50, 0, Prompter(processor), options)
    assert len(built) == 27
    assert len(decoded) == 3
    assert all(one() is None for one in kept)
