"""What check says about methods and tasks: routers, layers, files, lengths, lm-eval's data; the way out is shut."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

import attnpatch
from attnpatch.evaluation.checking.offline import offline
from tests import zoo
from tests.evaluation.conftest import byte_tokenizer
from tests.evaluation.lm_eval.conftest import TASK_FILES

OURS = {"lm_eval": {"include_path": [str(TASK_FILES)]}}


@pytest.fixture(scope="module")
def byte_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    zoo.tiny_qwen3(300, positions=2048).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_a_router_that_is_not_trained_names_its_recipe(look):
    router = {"name": "flux", "label": "routed", "options": {"router": "./runs/none"}}
    found = look(methods=[router])["method", "routed"]
    assert (found.status, "'./runs/none'" in found.found) == ("missing", True)
    assert "attnpatch train" in found.fix
    with_recipe = look(methods=[{**router, "recipe": "flux/sandbox"}])["method", "routed"]
    assert with_recipe.fix == "`attnpatch train flux/sandbox`"


def test_a_router_is_read_and_must_fit_the_model(look, sandbox_model, tmp_path, byte_folder):
    with attnpatch.apply(sandbox_model, "flux", router="untrained", local=8, sink=2) as patch:
        folder = patch.save_pretrained(tmp_path / "router")
    methods = [{"name": "flux", "label": "routed", "options": {"router": str(folder)}}]
    assert look(methods=methods)["method", "routed"].found == "applies to 2 of 2 layers; saved read"
    other = look(byte_folder, methods=methods)["method", "routed"]
    assert (other.status, "another architecture" in other.found) == ("missing", True)


def test_layers_that_refuse_a_method(look, tmp_path):
    model = zoo.build("gemma3_text")
    model.config.vocab_size = 300
    model.config.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_text("")
    found = look(tmp_path, methods=["stochastic:window=8"])["method", "stochastic(window=8)"]
    assert found.found.startswith("applies to 1 of 6 layers, not to the others: ")


def test_methods_about_images_meet_the_model(look):
    known = "gift:saliency_layer=1,layers=2:"
    found = look("sandbox:vision", methods=["gift", known, "pai"], tasks=["scenes_pope_anti"])
    assert (found["method", "gift"].status, found["method", "pai"].status) == ("missing", "ok")
    assert "attnpatch calibrate gift" in found["method", "gift"].found
    told = [one.found for (part, name), one in found.items() if part == "method" and "saliency_layer" in name]
    assert [one.split(",")[0] for one in told] == ["applies to 3 of 4 layers"]
    text = look("sandbox:text", methods=["pai"])["method", "pai"]
    assert (text.status, "has no image tokens" in text.found) == ("missing", True)


@pytest.mark.parametrize(
    "task, files, status, words",
    [
        ("ruler_niah_single_1", {}, "ok", "documents of 1024 tokens can be made"),
        ("ruler_niah_single_2", {}, "missing", "none is given"),
        ("ruler_qa_squad", {}, "missing", "SQuAD is not given"),
        ("ruler_qa_squad", {"squad": "none.json"}, "missing", "does not exist"),
        ("ruler_qa_hotpot", {"hotpot": "owner/none"}, "missing", "cannot be loaded"),
        ("ruler_vt", {}, "missing", "at 1024 tokens: ruler_vt"),
        ("chain", {}, "missing", "no version for this model's tokenizer"),
        ("perplexity", {"text_file": "none.txt"}, "missing", "cannot be read"),
    ],
)
def test_our_tasks(look, byte_folder, task, files, status, words):
    found = look(byte_folder, files=files, tasks=[task], lengths=["1k"])["task", task]
    assert (found.status, words in found.found) == (status, True), found


def test_a_length_that_is_too_short_does_not_hide_one_that_works(look, byte_folder):
    found = look(byte_folder, tasks=["ruler_niah_single_1"], lengths=["1k", 128])["task", "ruler_niah_single_1"]
    assert found.status == "missing"
    assert found.found.startswith("at 128 tokens: ")


@pytest.mark.parametrize(
    "task, files, status",
    [
        ("ruler_niah_single_1", {}, "unknown"),
        ("ruler_niah_single_2", {}, "missing"),
        ("ruler_qa_squad", {"squad": "none.json"}, "missing"),
        ("needle", {}, "unknown"),
    ],
)
def test_our_tasks_without_the_model(look, task, files, status):
    assert look("owner/none", files=files, tasks=[task])["task", task].status == status


@pytest.mark.parametrize("model", [None, "owner/none"])
def test_tasks_of_lm_eval(look, model):
    asked = ["toy_mc", "toy_group", "toy_nodata"]
    found = look(**({} if model is None else {"model": model}), tasks=asked, **OURS)
    assert found["task", "toy_mc"].found == "lm-eval: 1 task loaded"
    assert found["task", "toy_group"].found == "lm-eval: 2 tasks loaded"
    missing = found["task", "toy_nodata"]
    assert missing.status == "missing"
    assert "hf download --repo-type dataset nobody/no-such-dataset" in missing.fix


def test_the_part_of_a_group_that_is_missing_is_counted(look, tmp_path):
    (tmp_path / "both.yaml").write_text("group: both\ntask: [toy_mc, toy_nodata]\n")
    found = look(tasks=["both"], lm_eval={"include_path": [str(TASK_FILES), str(tmp_path)]})["task", "both"]
    assert found.found.startswith("1 of 2 tasks: no data: lm-eval task 'toy_nodata'")


def test_nothing_goes_out_and_everything_is_as_before(monkeypatch):
    reached = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: reached.append(address))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    before = socket.socket.connect
    flags = []

    def go_out():
        with offline(), socket.socket() as one:
            flags.append(constants.HF_HUB_OFFLINE)
            one.connect(("127.0.0.1", 9))

    with pytest.raises(ConnectionError, match="fetches nothing"):
        go_out()
    assert flags == [True]
    assert not reached
    assert socket.socket.connect is before
    assert not constants.HF_HUB_OFFLINE
