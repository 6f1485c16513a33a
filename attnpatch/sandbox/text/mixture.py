"""The training mixture: which rows a step trains on.

Rows depend on (seed, length, step, row) only, so a run can resume.
"""

from __future__ import annotations

from random import Random

from attnpatch.sandbox.text import tasks
from attnpatch.sandbox.text.rows import Sample

# Before induction has formed only tasks that teach it, and local text; then everything. "dense" rows are full
# of questions that come back in random order: with one question per key, crossing off what was said is a plateau.
FIRST = {"dense": 0.8, "copy": 0.1, "local": 0.1}
FULL = {
    "needles": 0.34,
    "repeated": 0.05,
    "mqar": 0.12,
    "copy": 0.11,
    "passkey": 0.10,
    "chain": 0.13,
    "local": 0.06,
    "document": 0.09,
}
# Once retrieval is there, more of what has to be memorised (sums).
LATE = {
    "needles": 0.24,
    "repeated": 0.04,
    "mqar": 0.12,
    "copy": 0.12,
    "passkey": 0.08,
    "chain": 0.12,
    "local": 0.20,
    "document": 0.08,
}


def train_row(rng: Random, length: int, kinds: dict[str, float]) -> tuple[str, Sample]:
    """One training row of a kind drawn from `kinds`, with options drawn at random."""
    kind = rng.choices(list(kinds), weights=list(kinds.values()))[0]
    most = min(90, (length - 1) // 8)
    if kind == "dense":
        facts = rng.randint(2, min(12, length // 10))
        return "needles", tasks.needles(rng, length, facts=facts, asks=(length - 1 - 4 * facts) // 4)
    if kind == "needles":
        facts = max(1, round(most ** rng.random())) if rng.random() < 0.4 else rng.randint(1, most)
        people = rng.choice((0, 0, max(1, min(24, length // 100))))
        return kind, tasks.needles(rng, length, facts=facts, people=people)
    if kind == "repeated":
        return kind, tasks.needles(rng, length, repeat=rng.randint(2, min(12, length // 8)))
    if kind == "mqar":
        return kind, tasks.mqar(rng, length, pairs=rng.randint(2, min(64, length // 20)))
    if kind == "copy":
        return kind, tasks.copy(rng, length, words=rng.randint(4, min(24, length // 4)))
    if kind == "chain":
        hops = rng.randint(1, 4)
        chains = rng.randint(1, max(1, min(8, length // (5 * hops + 5))))
        return kind, tasks.chain(rng, length, hops=hops, chains=chains)
    if kind == "local":
        return kind, tasks.local(rng, length, share=rng.uniform(0.3, 0.9))
    if kind == "passkey":
        return kind, tasks.passkey(rng, length)
    return kind, tasks.document(rng, length)


def train_batch(seed: int, step: int, rows: int, length: int, kinds: dict[str, float]) -> list[tuple[str, Sample]]:
    """`rows` training rows of one step, from the train stream."""
    return [train_row(Random(f"train/{seed}/{length}/{step}/{row}"), length, kinds) for row in range(rows)]
