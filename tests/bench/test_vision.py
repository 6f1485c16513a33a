"""`bench_vision`: its options are those that the methods about images have."""

from __future__ import annotations

import attnpatch
from attnpatch.bench.vision import SLICE_OPTIONS, bench_vision
from attnpatch.patching.method import build_method

ABOUT_IMAGES = {name for name, method in attnpatch.methods().items() if method.needs_images}


def test_options_for_the_slice_are_options_of_each_method():
    assert set(SLICE_OPTIONS) == ABOUT_IMAGES
    for name, options in SLICE_OPTIONS.items():
        build_method((name, options))


def test_every_method_is_timed_on_the_sandbox():
    steps = []
    result = bench_vision(
        tokens=2, repeats=1, batches=(1, 2), progress=lambda done, total, _: steps.append((done, total))
    )
    assert [(row["batch"], row["method"]) for row in result.rows] == [
        (batch, method) for batch in (1, 2) for method in ("unpatched", *SLICE_OPTIONS)
    ]
    assert steps[-1] == (len(steps), len(steps))
    assert all(row["first_ms"] > 0 and row["generation_ratio"] > 0 for row in result.rows)
