"""bench_kernels: what it measures is what it says."""

from __future__ import annotations

import pytest

from attnpatch.bench import kernels
from attnpatch.bench.kernels import _crossover, bench_kernels
from attnpatch.bench.result import write
from attnpatch.patching import AttnPatchError


def run(**changes):
    settings = {"lengths": (300, 90), "windows": (32,), "heads": 2, "kv_heads": 1, "head_dim": 16, "repeats": 2}
    return bench_kernels(**{**settings, "threads_used": 1, **changes})


def test_rows_floors_and_progress():
    seen = []
    result = run(progress=lambda *state: seen.append(state))
    rows = {(row["length"], row["kernel"]): row for row in result.rows}
    assert len(rows) == 2 * (1 + len(kernels.KERNELS))
    dense = 300 * 301 / 2
    assert rows[300, "window"]["ideal"] == pytest.approx(dense / (300 * 32 - 32 * 31 / 2))
    assert rows[300, "exact slots"]["ideal"] == pytest.approx(dense / (300 * 32))
    assert rows[300, "sorted buckets"]["mean_keys"] == pytest.approx((9 * 32 * 33 / 2 + 12 * 13 / 2) / 300)
    # Blocks of 8: three begin with fewer than four kept ones, and each query sees half of its own.
    pairs = 8 * sum(8 * min(block, 3) + 4.5 for block in range(37)) + 4 * (24 + 2.5)
    assert rows[300, "kept blocks"]["mean_keys"] == pytest.approx(pairs / 300)
    assert rows[300, "kept blocks"]["backend"] == "chunked-blocks"
    assert rows[300, "exact slots"]["mean_keys"] == pytest.approx(33 / 2, abs=0.1)
    assert all(row["error"] < 5e-6 for row in result.rows)
    assert all(row["fraction"] == pytest.approx(row["speedup"] / row["ideal"]) for row in result.rows)
    assert result.settings["clock"] == "cpu"
    assert seen[-1][0] == seen[-1][1]


def test_files(tmp_path):
    files = write(run(lengths=(90,)), tmp_path, command="attnpatch bench kernels", plot=True)
    assert [file.suffix for file in files] == [".json", ".md", ".png"]
    assert "of the floor" in files[1].read_text()


def test_a_wrong_kernel_shows_in_the_error_column(monkeypatch):
    real = kernels.attend

    def wrong(q, k, v, rule, **options):
        answer = real(q, k, v, rule, **options)
        return answer._replace(output=answer.output + 0.1)

    monkeypatch.setattr(kernels, "attend", wrong)
    rows = run(lengths=(90,)).rows
    assert all(row["error"] > 0.09 for row in rows if row["kernel"] != "dense")


@pytest.mark.parametrize(
    "points, expected",
    [
        ([(1024, 1.1), (2048, 2.0)], "<= 1,024"),
        ([(1024, 0.5), (2048, 0.9)], "> 2,048"),
        ([(1024, 0.5), (4096, 2.0)], "2,048"),
        ([(1024, 1.5), (2048, 0.5), (8192, 2.0)], "4,096"),
    ],
)
def test_crossover(points, expected):
    assert _crossover(points) == expected


@pytest.mark.parametrize(
    "change, words",
    [
        ({"dtype": "flot32"}, "float32"),
        ({"lengths": ()}, "lengths"),
        ({"windows": (4,)}, "windows"),
        ({"repeats": 0}, "repeats"),
        ({"kv_heads": 3}, "multiple"),
    ],
)
def test_bad_arguments(change, words):
    with pytest.raises((AttnPatchError, ValueError), match=words):
        run(**change)


def test_half_precision():
    assert all(row["error"] < 4e-2 for row in run(dtype="bfloat16", lengths=(90,)).rows)
