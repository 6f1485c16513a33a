"""Made-up results with known numbers."""

from __future__ import annotations

import json
from pathlib import Path

from attnpatch.evaluation import Results

IDS = [str(i) for i in range(12)]
MODEL = {"id": "some/model", "revision": "abc123", "fingerprint": "f" * 64, "dtype": "float32"}
PUBLISHED = [
    {
        "name": "needles", "model": "some/model", "scores": {"needle": "accuracy"}, "lengths": [64, 128],
        "values": {"stock": [99.5, 98], "good @16": [80, 79], "other": [1, 2]}, "scale": 100, "source": "Table 1",
        "tag": "paper", "note": "Other prompts.",
    },
    {
        "name": "both", "model": "some/model", "scores": {"needle": "accuracy", "copy": "accuracy"}, "lengths": [64],
        "values": {"bad @16": [30]}, "scale": 100, "source": "Figure 2", "tag": "secondary",
    },
    {
        "name": "more", "model": "some/model", "scores": {"needle": "accuracy", "chain": "accuracy"}, "lengths": [64],
        "values": {"stock": [5]}, "source": "Figure 3", "tag": "paper",
    },
]  # fmt: skip
DEPTHS = [0.0, 0.5, 1.0]


def cell(method, budget, task, length, sums, *, keys, seed=None, metric="accuracy", **more):
    """One ok cell; `sums` are the scores of its documents."""
    kind = {"kind": "perplexity"} if metric == "perplexity" else {}
    own = {
        "key": f"{method}-{budget}-{task}-{length}-{seed}",
        "status": "ok",
        "reason": None,
        "fix": None,
        "model": MODEL,
        "method": {"name": "stock" if method == "stock" else "sliding", "label": method, "config": {"window": keys}},
        "task": {
            "name": task, "source": "text", "documents": f"{task}{length}", "description": f"about {task}",
            "metric": metric, "chance": 0.01,
        },
        "length": length,
        "seed": seed,
        "budget": {"target": budget, "mean_keys": keys, "decode_mean_keys": None},
        "documents": IDS[: len(sums)],
        "scores": {metric: {"sums": sums, "weights": [1] * len(sums), **kind}},
        "metrics": {metric: {"value": sum(sums) / max(1, len(sums)), "low": 0, "high": 1}},
        "depth": None,
        "reach": None,
        "positions": None,
        "speed": {"prefill": {"tokens_per_s": 1000.0 + keys}, "decode": None},
        "peak_memory": None,
        "seconds": 1.0,
        "date": f"2026-01-0{1 + (seed or 0)}T00:00:00+00:00",
    }  # fmt: skip
    return own | more


def by_depth(*found):
    return {"at": DEPTHS, "correct": list(found), "total": [4, 4, 4]}


def hits(right: int) -> list[int]:
    return [1] * right + [0] * (12 - right)


def made_up(**names) -> Results:
    """Stock and two methods at two budgets and two lengths: `good` finds 9 or 6 of 12, `bad` 3 or 0."""
    good, bad, needle = names.get("good", "good"), names.get("bad", "bad"), names.get("needle", "needle")
    cells = []
    for length in (64, 128):
        small, large = length // 8, length // 4
        cells += [
            cell("stock", None, needle, length, hits(12), keys=length / 2, depth=by_depth(4, 4, 4)),
            cell("stock", None, "copy", length, hits(12), keys=length / 2),
            cell("stock", None, "story", length, [1.0] * 12, keys=length / 2, metric="perplexity"),
        ]
        for method, right, nll in ((good, 6, 2.0), (bad, 0, 3.0)):
            for budget, more, seeds in ((small, 0, (0, 1)), (large, 3, (None,))):
                for seed in seeds:
                    own = hits(right + more)
                    depth = by_depth(4, right // 3, more)
                    reach = {"at": DEPTHS, "reached": [4, 1, 4], "total": [4, 4, 4]}
                    cells += [
                        cell(method, budget, needle, length, own, keys=budget, seed=seed, depth=depth, reach=reach),
                        cell(method, budget, "copy", length, own, keys=budget, seed=seed),
                        cell(method, budget, "story", length, [nll] * 12, keys=budget, seed=seed, metric="perplexity"),
                    ]
    broken = cells[-1] | {
        "key": "broken", "status": "error", "reason": names.get("reason", "out of memory"), "fix": "less",
        "metrics": {},
    }  # fmt: skip
    return Results(
        [*cells, broken],
        {
            "command": names.get("command", "attnpatch-eval run"),
            "model": MODEL | {"id": names.get("model", "some/model")},
            "suite": {
                "name": "own",
                "description": "made up",
                "budgets": ["length/8", "length/4"],
                "seeds": [0, 1],
                "reported": names.get("reported", []),
            },
            "versions": {"torch": "2"},
            "unpatched": names.get("unpatched", True),
        },
    )


def write_samples(folder: Path, results: Results, text: str = "word") -> None:
    """What was answered: the document's id and the method, with `text` in front."""
    for one in results.cells:
        if one["status"] == "ok" and one["task"]["metric"] == "accuracy":
            path = folder / "samples" / f"{one['key']}.jsonl"
            path.parent.mkdir(exist_ok=True)
            records = [
                {"id": name, "prediction": f"{text} {one['method']['label']} {name}", "references": [f"{text} {name}"]}
                for name in one["documents"]
            ]
            path.write_text("\n".join(map(json.dumps, records)) + "\n")
