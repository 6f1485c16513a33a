"""POPE, CHAIR, MME and AMBER from files to rows, on a tiny random LLaVA."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

import attnpatch
from attnpatch.evaluation import evaluate
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination import mme, pope
from attnpatch.evaluation.vision import amber_nouns
from attnpatch.patching.errors import AttnPatchError
from tests.evaluation.vision.conftest import NAMES, make_processor


def ok(results):
    assert results.problems() == []
    return {cell["task"]["name"]: cell for cell in results.cells if cell["method"]["label"] == "stock"}


@pytest.mark.parametrize("chat", [True, False], ids=["chat template", "plain"])
def test_pope(run, model, tmp_path, chat):
    processor = make_processor(chat)
    cell = ok(run("pope", processor=processor, output_path=tmp_path / "out"))["pope"]
    assert cell["length"] is None
    assert len(cell["documents"]) == 27
    assert cell["task"]["details"]["prompt"] == ("chat template" if chat else "plain")
    assert cell["task"]["details"]["max_new_tokens"] == 3
    assert sorted(set(cell["images"])) == sorted(NAMES)
    assert set(cell["strata"]) == {"random", "popular", "adversarial"}
    records = [json.loads(line) for line in (tmp_path / f"out/samples/{cell['key']}.jsonl").read_text().splitlines()]
    first = records[0]
    # The same prompt by hand.
    question = "Is there a cat in the image ?\nAnswer the question using a single word or phrase."
    text = f"USER: <image> {question} ASSISTANT:" if chat else f"<image>\n{question}"
    inputs = processor(text=text, images=Image.open(tmp_path / "data/images/one.jpg"), return_tensors="pt")
    with torch.no_grad():
        new = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert first["prediction"] == processor.decode(new, skip_special_tokens=True).strip()
    assert first["prompt_tokens"] == inputs["input_ids"].shape[1]
    # The pure function on what was kept gives the cell's numbers.
    rows = [{"question_id": r["id"], "label": r["references"][0], "split": r["group"]} for r in records]
    direct = pope.score({r["id"]: r["prediction"] for r in records}, rows)
    for name, value in direct.items():
        if isinstance(value, float):
            bare, _, split = name.partition(" (")
            metric = f"{bare} %" + (f" ({split}" if split else "")
            assert cell["metrics"][metric]["value"] == pytest.approx(value), metric


def test_batches_answer_as_singles(run, tmp_path):
    found = []
    for size in (1, 4):
        out = tmp_path / str(size)
        cell = ok(run("pope_random", generation_batch_size=size, output_path=out))["pope_random"]
        found.append((out / f"samples/{cell['key']}.jsonl").read_text())
    assert found[0] == found[1]


def test_the_processor_stays_as_it_was(run, processor):
    before = processor.tokenizer.padding_side
    ok(run("pope_random", generation_batch_size=3, limit=3))
    assert processor.tokenizer.padding_side == before == "right"


def test_all_benchmarks(run):
    cells = ok(run("pope", "chair", "mme", "amber_questions", methods=["sliding:window=6"]))
    assert set(cells) == {"pope", "chair", "mme", "amber_questions"}
    assert {"perception", "hallucination", "existence", "count"} <= set(cells["mme"]["metrics"])
    assert {"chair_i %", "chair_s %", "recall %", "length"} <= set(cells["chair"]["metrics"])
    assert {"f1 %", "f1 % (existence)", "f1 % (attribute)"} <= set(cells["amber_questions"]["metrics"])
    assert cells["chair"]["task"]["details"]["synonyms"] == "own"
    assert cells["chair"]["task"]["details"]["max_new_tokens"] == 5


def test_rows_are_by_picture_and_paired(run):
    results = run("pope", "chair", methods=["sliding:window=6"])
    rows = {(row.method, row.task, row.metric): row for row in results.rows}
    row = rows["sliding(window=6)", "pope", "f1 %"]
    assert row.documents == 3
    assert row.small
    assert row.delta is not None
    assert row.delta_low <= row.delta <= row.delta_high
    assert rows["stock", "pope", "f1 % (random)"].detail
    text = results.to_markdown()
    assert "pope f1 %" in text
    assert "CHAIR by the table that ships with attnpatch" in text
    assert "pope f1 % (random)" not in text.split("## ")[0]
    assert "27 documents about 3 pictures; n small" in text


def test_same_answers_no_difference(run):
    results = run("pope", "mme", "chair", methods=["stock", "sliding:window=250"])
    for row in results.rows:
        if row.method != "stock":
            assert (row.delta, row.delta_low, row.delta_high) == (0, 0, 0)


def test_limit_keeps_pairs_whole(run):
    cell = ok(run("mme", limit=3))["mme"]
    assert len(cell["documents"]) == 4  # one pair per subtask
    assert cell["task"]["details"]["incomplete"] == 0
    assert len(ok(run("mme", limit=1))["mme"]["documents"]) == 4
    assert len(ok(run("pope", limit=2))["pope"]["documents"]) == 6


def test_a_picture_with_one_question_is_counted(run, data):
    file = data / "mme" / "count.txt"
    file.write_text("\n".join(file.read_text().splitlines()[:3]) + "\n")
    cell = ok(run("mme"))["mme"]
    assert cell["task"]["details"]["incomplete"] == 1
    assert mme.score({}, [])["questions"] == 0


def test_missing_picture_stops_or_is_counted(run, data):
    (data / "images" / "two.jpg").unlink()
    with pytest.raises(UsageError, match=r"pope, image 'two\.jpg': no such file under .*--on-bad skip"):
        run("pope")
    results = run("pope", vision={"on_bad": "skip"})
    cell = results.cells[0]
    assert len(cell["documents"]) == 18
    assert cell["task"]["details"]["left_out"]["count"] == 1  # one picture, named once
    assert any("1 entries left out" in line and "two.jpg" in line for line in results.problems())


def test_broken_line_stops_or_is_counted(run, data):
    file = data / "pope" / "coco_pope_popular.json"
    file.write_text(file.read_text() + '{"question_id": 99, "ima\n')
    with pytest.raises(UsageError, match=r"coco_pope_popular\.json, line 10: not JSON"):
        run("pope")
    cell = run("pope", vision={"on_bad": "skip"}).cells[0]
    assert cell["task"]["details"]["left_out"]["count"] == 1
    assert len(cell["documents"]) == 27


def keys(run, *tasks, **given):
    return {cell["key"] for cell in run(*tasks, **given).cells}


def test_the_key_follows_every_file(run, data, tmp_path):
    names = ("pope", "chair", "mme", "amber_questions")
    before = {name: keys(run, name, limit=4) for name in names}
    assert before == {name: keys(run, name, limit=4) for name in names}
    Image.new("RGB", (30, 40), (1, 2, 3)).save(data / "images" / "one.jpg")
    assert all(before[name].isdisjoint(keys(run, name, limit=4)) for name in names)
    before = {name: keys(run, name, limit=4) for name in names}
    for name, path in {"pope": "pope/coco_pope_random.json", "mme": "mme/count.txt"}.items():
        file = data / path
        file.write_text(file.read_text().replace("cat", "dog", 1).replace("dog", "x", 1))
        assert before[name].isdisjoint(keys(run, name, limit=4))
    file = data / "coco" / "captions_val2014.json"
    file.write_text(file.read_text().replace("a dog", "a zebra"))
    assert before["chair"].isdisjoint(keys(run, "chair", limit=4))
    table = tmp_path / "synonyms.txt"
    table.write_text("cat\ndog\nzebra, horse\n")
    given = keys(run, "chair", limit=4, chair_synonyms=table)
    table.write_text("cat\ndog\nzebra\n")
    assert given.isdisjoint(keys(run, "chair", limit=4, chair_synonyms=table))
    assert before["pope"].isdisjoint(keys(run, "pope", limit=4, vision={"suffix": "\nAnswer ."}))
    assert keys(run, "pope", limit=4).isdisjoint(keys(run, "pope", limit=4, vision={"answer_tokens": 4}))
    assert keys(run, "pope", limit=4).isdisjoint(keys(run, "pope", limit=4, processor=make_processor(False)))


def test_resume(run, tmp_path):
    given = {"methods": ["sliding:window=6"], "output_path": tmp_path / "out", "limit": 3}
    first = run("pope", "chair", **given)
    again = run("pope", "chair", **given)
    assert again.run["reused_cells"] == 4
    assert again.run["unpatched"] is None
    assert [cell["metrics"] for cell in again.cells] == [cell["metrics"] for cell in first.cells]
    assert first.run["unpatched"] is True


def test_chosen_pictures(run, tmp_path, data):
    file = tmp_path / "chosen.txt"
    file.write_text("2\nthree.jpg\n\none.jpg\n")
    with pytest.raises(UsageError, match=r"chosen\.txt, line 2: 'three\.jpg' stands there twice"):
        run("chair", chair_images=file)
    cell = run("chair", chair_images=file, vision={"on_bad": "skip"}).cells[0]
    assert cell["documents"] == ["2", "0"]
    file.write_text("nine.jpg\n")
    with pytest.raises(UsageError, match="names no picture"):
        run("chair", chair_images=file, vision={"on_bad": "skip"})


def test_speed_of_pictures(run):
    results = run("pope_random", methods=["sliding:window=6"], limit=2, speed_rounds=2)
    assert [(row["method"], row["length"]) for row in results.run["speed"]] == [
        ("stock", None),
        ("sliding(window=6)", None),
    ]
    assert results.run["speed"][1]["decode_of_stock"] > 0
    assert "of stock" in results.to_markdown()


def test_without_data_or_processor_the_reason_is_told(model, processor):
    results = evaluate(model, processor, tasks=["pope", "chair", "mme", "amber"], methods=["stock"], speed_rounds=0)
    reasons = {cell["task"]["name"]: (cell["status"], cell["fix"]) for cell in results.cells}
    assert all(status == "skipped" for status, _ in reasons.values())
    assert "--pope PATH, or --data-dir DIR with pope/" in reasons["pope"][1]
    assert "attnpatch[amber]" in reasons["amber_captions"][1]
    results = evaluate(model, processor.tokenizer, tasks=["pope"], methods=["stock"], speed_rounds=0)
    assert results.cells[0]["status"] == "skipped"
    assert "not a processor" in results.cells[0]["reason"]


def test_a_text_model_takes_no_pictures(sandbox_model, sandbox_tokenizer):
    found = evaluate(sandbox_model, sandbox_tokenizer, tasks=["pope", "needle"], lengths=[64], limit=2, speed_rounds=0,
                     methods=["stock"])  # fmt: skip
    status = {cell["task"]["name"]: cell["status"] for cell in found.cells}
    assert status == {"pope": "skipped", "needle": "ok"}
    assert "llava" in next(cell["fix"] for cell in found.cells if cell["status"] == "skipped")


def test_amber_captions_with_nouns_from_outside(data):
    records = [
        {"prediction": "cat dog dog", "references": ["cat"], "extra": {"hallu": ["dog"]}},
        {"prediction": "", "references": ["cat"]},
    ]
    found = amber_nouns.judged(records, data / "amber", str.split, lambda one, two: float(one == two))
    assert (found["chair %"]["sums"], found["chair %"]["weights"]) == ([2, 0], [3, 0])
    assert (found["cover %"]["sums"], found["cog %"]["weights"]) == ([1, 0], [1, 0])
    assert [one["hallucinated"] for one in records] == [2, 0]


def test_a_method_that_refuses_the_model_is_skipped_and_the_others_are_timed(run, monkeypatch):
    apply = attnpatch.apply

    def refuse(model, method, **options):
        if options.get("window") == 7:
            raise AttnPatchError("its layers are not known,\n  run attnpatch calibrate")
        return apply(model, method, **options)

    monkeypatch.setattr(attnpatch, "apply", refuse)
    results = run("pope_random", methods=["sliding:window=8", "sliding:window=7"], limit=2, speed_rounds=1)
    status = {cell["method"]["label"]: cell["status"] for cell in results.cells}
    assert status == {"stock": "ok", "sliding(window=8)": "ok", "sliding(window=7)": "skipped"}
    assert [row["method"] for row in results.run["speed"]] == ["stock", "sliding(window=8)"]
    assert "calibrate" in results.problems()[0]


def test_batch_size_auto_counts_the_picture(run):
    assert ok(run("pope_random", generation_batch_size="auto", limit=4))["pope_random"]["batch_size"] == 4
