"""Names: ours, lm-eval's with and without prefix, groups taken apart, and typos."""

from __future__ import annotations

import pytest

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.lm_eval import extra, names
from tests.evaluation.lm_eval.conftest import TASK_FILES

OURS = ["needle", "passkey", "perplexity", "toy_mc"]
FOLDER = (str(TASK_FILES),)


@pytest.fixture
def no_index(monkeypatch):
    """Building lm-eval's own index takes seconds; where this fixture is used it must not happen."""
    build = names.manager.__wrapped__

    def manager(include_path, defaults):
        assert not defaults, "lm-eval's own index was built"
        return build(include_path, defaults)

    monkeypatch.setattr(names, "manager", manager)


def test_names_from_our_folders_need_no_index_of_lm_eval(no_index):
    names.check(["needle", "toy_roll", "lm_eval:toy_mc", "toys", "toy_group"], OURS, FOLDER)


def test_a_typo_of_ours_is_told_at_once(no_index):
    with pytest.raises(UsageError, match=r"unknown task 'nedle'. Did you mean 'needle'.*lm_eval:NAME"):
        names.check(["nedle"], OURS, FOLDER)


def test_a_name_like_ours_in_an_own_folder_is_meant(no_index, tmp_path):
    text = (TASK_FILES / "toy_mc.yaml").read_text().replace("toy_mc", "needles").replace("documents.", "docs.")
    (tmp_path / "needles.yaml").write_text(text)
    names.check(["needles"], OURS, (str(tmp_path),))


def test_a_folder_that_does_not_exist():
    with pytest.raises(UsageError, match="'/no/where' is not a folder"):
        names.check(["needle"], OURS, ("/no/where",))


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(names, "has_lm_eval", lambda: False)
    with pytest.raises(UsageError, match=r'after pip install "attnpatch\[eval\]", lm-eval\'s'):
        names.check(["hellaswag"], OURS)


def test_the_extra_is_one_sentence(monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'Install it with: pip install "attnpatch\[eval\]"'):
        extra.require_lm_eval()


def test_tags_and_groups_are_taken_apart(manager):
    assert names.expand(manager, "toy_mc").tasks == ["toy_mc"]
    tag = names.expand(manager, "toys")
    assert set(tag.tasks) >= {"toy_gen", "toy_mc"}
    assert not tag.groups
    group = names.expand(manager, "toy_group")
    assert group.tasks == ["toy_mc", "toy_mc2"]
    assert group.groups == [names.Group("toy_group", ("toy_mc", "toy_mc2"), (("acc", None, False),))]


def test_a_group_that_changes_its_tasks_stays_whole(manager, tmp_path):
    (tmp_path / "changed.yaml").write_text("group: changed\ntask:\n  - {task: toy_mc, num_fewshot: 2}\n")
    task_manager = names.manager((str(TASK_FILES), str(tmp_path)), False)
    found = names.expand(task_manager, "changed")
    assert (found.tasks, found.whole) == ([], ["changed"])
