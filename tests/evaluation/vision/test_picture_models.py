"""Vision-language checkpoints: loaded with their processors, on other families and without torchvision."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from typer.testing import CliRunner

from attnpatch.cli.eval import app
from attnpatch.evaluation import evaluate
from attnpatch.evaluation.loading import CheckpointSource, MemorySource, ModelRequest
from attnpatch.evaluation.processors import load_processor
from tests.evaluation.vision.conftest import make_processor
from tests.zoo import build

RUN = CliRunner()


def source(folder) -> CheckpointSource:
    return CheckpointSource(ModelRequest(str(folder)))


def test_a_vision_checkpoint_brings_its_processor(llava_folder, model):
    found = source(llava_folder)
    assert found.no_processor is None
    loaded = found.load()
    assert isinstance(loaded, transformers.LlavaForConditionalGeneration)
    assert torch.equal(loaded.lm_head.weight.cpu(), model.lm_head.weight)
    assert found.identity.tokenizer == source(llava_folder).identity.tokenizer


def test_the_key_follows_the_processor(llava_folder, model, processor, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(llava_folder, folder)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["image_mean"] = [0.1, 0.2, 0.3]
    path.write_text(json.dumps(config))
    assert source(folder).identity.tokenizer != source(llava_folder).identity.tokenizer
    assert (
        MemorySource(model, processor).identity.tokenizer
        != MemorySource(model, processor.tokenizer).identity.tokenizer
    )
    plain = MemorySource(model, make_processor(chat=False)).identity.tokenizer
    assert MemorySource(model, processor).identity.tokenizer != plain


def test_without_a_processor_the_text_side_still_works(llava_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(llava_folder, folder)
    (folder / "processor_config.json").unlink()
    (folder / "chat_template.jinja").unlink()
    found = source(folder)
    assert found.processor is None
    assert "its processor cannot be loaded" in found.no_processor
    assert found.tokenizer.convert_tokens_to_ids("cat") > 0


def test_a_text_model_has_none(checkpoint):
    found = source(checkpoint)
    assert (found.processor, "takes no pictures" in found.no_processor) == (None, True)


@pytest.fixture
def qwen(tmp_path):
    """Qwen2.5-VL, whose processor has a part for videos."""
    folder = tmp_path / "qwen"
    build("qwen2_5_vl").save_pretrained(folder)
    tokenizer = make_processor().tokenizer
    names = {100: "<image>", 101: "w101", 102: "w102", 103: "w103"}
    renamed = {100: "<|image_pad|>", 101: "<|video_pad|>", 102: "<|vision_start|>", 103: "<|vision_end|>"}
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for index, name in names.items():
        state["model"]["vocab"].pop(name)
        state["model"]["vocab"][renamed[index]] = index
    state["added_tokens"] = [one for one in state["added_tokens"] if one["content"] != "<image>"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer.from_str(json.dumps(state)), bos_token="<s>", eos_token="</s>",
        pad_token="<pad>", unk_token="<unk>", additional_special_tokens=list(renamed.values()),
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    transformers.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %} {{ part['text'] }}"
        "{% endif %}{% endfor %}{% endfor %}"
    )
    return folder


def test_a_processor_with_videos_needs_no_torchvision(qwen, data):
    found = source(qwen)
    assert found.no_processor is None
    results = evaluate(
        found.load(), found.processor, tasks=["pope_random"], methods=["sliding:window=8"], limit=4, speed_rounds=1,
        data_dir=data, generation_batch_size=2, vision={"answer_tokens": 2},
    )  # fmt: skip
    assert results.problems() == []
    assert results.run["unpatched"] is True
    assert results.cells[0]["task"]["details"]["prompt"] == "chat template"


def test_a_broken_processor_is_told(tmp_path):
    config = transformers.LlavaConfig()
    found, reason = load_processor(str(tmp_path / "nothing"), config)
    assert found is None
    assert "cannot be loaded" in reason


def run(*given: str):
    return RUN.invoke(app, list(given))


def test_the_command_line(llava_folder, data, tmp_path):
    found = run(
        "run", "--model", str(llava_folder), "--methods", "stock", "sliding:window=8", "--tasks", "pope", "mme",
        "--limit", "2", "--data-dir", str(data), "--answer-tokens", "2", "--speed-rounds", "1", "--output-path",
        str(tmp_path / "out"), "--quiet",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "pope accuracy %" in found.output
    assert "mme perception" in found.output
    again = run("report", str(tmp_path / "out"))
    assert again.exit_code == 0
    bad = run(
        "run", "--model", str(llava_folder), "--tasks", "pope", "--data-dir", str(data), "--on-bad", "skipp", "--quiet"
    )
    assert bad.exit_code == 2
    assert "on_bad" in bad.output


def test_check_says_what_is_missing(llava_folder, data):
    given = (
        "check",
        "--model",
        str(llava_folder),
        "--methods",
        "stock",
        "--tasks",
        "pope",
        "chair",
        "--limit",
        "4",
        "--json",
    )
    found = json.loads(run(*given).output)
    tasks = {one["name"]: one for one in found["findings"] if one["part"] == "task"}
    assert tasks["pope"]["status"] == "missing"
    assert "--data-dir DIR with pope/" in tasks["pope"]["fix"]
    there = run(*given, "--data-dir", str(data))
    assert there.exit_code == 0, there.output
    (data / "images" / "one.jpg").unlink()
    found = run(*given, "--data-dir", str(data))
    assert found.exit_code == 1
    assert "one.jpg" in found.output
    found = run(*given, "--data-dir", str(data), "--on-bad", "skip")
    assert found.exit_code == 0
    assert "left out" in found.output


def test_beside_what_a_paper_reports(llava_folder, data, tmp_path):
    folder = tmp_path / "llava-1.5-7b-hf"
    shutil.copytree(llava_folder, folder)
    found = run(
        "run", "--suite", "paper-vhr", "--model", str(folder), "--methods", "stock", "--limit", "2", "--data-dir",
        str(data), "--caption-tokens", "4", "--output-path", str(tmp_path / "out"), "--quiet",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    lines = json.loads((tmp_path / "out" / "results.json").read_text())["reported"]
    ours = {line["name"]: line["ours"] for line in lines if line["method"] == "stock"}
    assert set(ours) == {"LLaVA-1.5-7B, CHAIR_s", "LLaVA-1.5-7B, CHAIR_i", "LLaVA-1.5-7B, POPE F1"}
    assert None not in ours.values()


def test_the_sandbox_model_brings_its_processor():
    found = source("sandbox:vision")
    assert found.no_processor is None
    assert found.identity.id == "sandbox:vision"
    assert found.tokenizer.convert_tokens_to_ids("circle") > 0
