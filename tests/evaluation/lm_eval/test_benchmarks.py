"""Long-context benchmarks by their names: what stands behind them in lm-eval, and what is said without their data."""

from __future__ import annotations

import pytest
from datasets import config
from huggingface_hub import constants

from attnpatch.evaluation.errors import SkipCell, UsageError
from attnpatch.evaluation.lm_eval import loading, names
from attnpatch.evaluation.loading import MemorySource
from attnpatch.evaluation.plan import Planner
from attnpatch.evaluation.suites import make_suite
from attnpatch.evaluation.tasks import ours


@pytest.fixture(autouse=True)
def _empty_caches(monkeypatch, tmp_path):
    """Whatever this machine has downloaded before."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)


@pytest.fixture(scope="module")
def index():
    return names.manager((), True)


@pytest.mark.parametrize(
    "name, tasks, example, groups",
    [
        ("babilong", 20, "babilong_qa7", ["babilong"]),
        ("longbench", 21, "longbench_hotpotqa", ["longbench_code", "longbench_multi"]),
        ("longbench_e", 9, "longbench_hotpotqa_e", ["longbench_e"]),
        ("longbench2", 20, "longbench2_many_shot", ["longbench2"]),
        ("infinitebench", 11, "infinitebench_passkey", []),
        ("mmlu", 57, "mmlu_anatomy", ["mmlu"]),
        ("lm_eval:ruler", 13, "niah_single_1", ["ruler"]),
    ],
)
def test_groups(index, name, tasks, example, groups):
    names.check([name], ours())
    found = names.expand(index, names.bare(name))
    assert (len(found.tasks), example in found.tasks, found.whole) == (tasks, True, [])
    assert set(groups) <= {group.name for group in found.groups}


@pytest.mark.parametrize(
    "typo, meant",
    [
        ("babylong", "babilong"),
        ("longbnech", "longbench"),
        ("longbench_v2", "longbench2"),
        ("infinite_bench", "infinitebench"),
    ],
)
def test_typos(typo, meant):
    with pytest.raises(UsageError, match=f"unknown task '{typo}'. Did you mean"):
        names.check([typo], ours())
    with pytest.raises(UsageError, match=f"'{meant}'"):
        names.check([typo], ours())


@pytest.mark.parametrize(
    "name, length, reason, fix",
    [
        ("babilong_qa1", 4096, "no data", "RMT-team/babilong-1k-samples"),
        ("babilong_qa1", 3000, "no documents of 3000 tokens", "take --lengths among 1k 2k 4k"),
        ("longbench2_many_shot", None, "no data", "hf download --repo-type dataset"),
        ("infinitebench_passkey", None, "no data", "xinrongzhang2022/InfiniteBench"),
        ("hellaswag", None, "no data", "Rowan/hellaswag"),
    ],
)
def test_without_data_each_says_how_to_get_it(index, model, tokenizer, name, length, reason, fix):
    with pytest.raises(SkipCell, match=reason) as skipped:
        loading.load(index, name, MemorySource(model, tokenizer), length, {}, 0)
    assert fix in skipped.value.fix


def test_an_extra_that_is_missing_is_named(index, model, tokenizer, monkeypatch):
    def absent(*args):
        raise ImportError('Please install lm_eval["longbench"]')

    monkeypatch.setattr(index, "load", absent)
    with pytest.raises(SkipCell, match=r"extra missing: .*longbench") as skipped:
        loading.load(index, "longbench_lcc", MemorySource(model, tokenizer), None, {}, 0)
    assert 'pip install "lm-eval[longbench]"' in skipped.value.fix


def test_code_of_a_model_is_not_run_unasked(index, model, tokenizer, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with pytest.raises(SkipCell, match="runs code that the model writes") as skipped:
        loading.load(index, "humaneval", MemorySource(model, tokenizer), None, {}, 0)
    assert skipped.value.fix == "in a container, set HF_ALLOW_CODE_EVAL=1 to let it"


def test_a_plan_of_benchmarks_without_data_is_all_skips(model, tokenizer):
    suite = make_suite(methods=["stock"], tasks=["babilong", "infinitebench", "longbench2"], lengths=["4k"])
    cells = Planner(suite, MemorySource(model, tokenizer)).cells()
    assert len(cells) == 20 + 11 + 20
    assert all(cell.skip is not None and cell.skip.fix for cell in cells)
