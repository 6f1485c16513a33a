"""The 13 tasks of RULER in NVIDIA's sizes (arXiv 2404.06654, table of tasks)."""

from __future__ import annotations

from dataclasses import dataclass

from attnpatch.evaluation.ruler.needles import Needles

PREFIX = "ruler_"


@dataclass(frozen=True)
class Spec:
    """One task.

    short: its name in tables. generated: tokens of the answer. match: "all" (share of references found) or "part"
    (any of them). needs: what the user gives, None if nothing ("words" come from wonderwords).
    """

    name: str
    short: str
    description: str
    generated: int
    match: str = "all"
    needs: tuple[str, ...] = ()
    needles: Needles | None = None


def _niah(name: str, short: str, description: str, needles: Needles) -> Spec:
    needs = (("words",) if "words" in (needles.key, needles.value) else ()) + (
        ("essay",) if needles.haystack == "essay" else ()
    )
    return Spec(f"niah_{name}", short, description, 128, "all", needs, needles)


SPECS = (
    _niah("single_1", "S1", "one word-number needle in repeated noise", Needles("noise")),
    _niah("single_2", "S2", "one word-number needle in essays", Needles("essay")),
    _niah("single_3", "S3", "one word-UUID needle in essays", Needles("essay", value="uuids")),
    _niah("multikey_1", "MK1", "four word-number needles in essays, one asked", Needles("essay", keys=4)),
    _niah("multikey_2", "MK2", "one word-number needle among needles", Needles("needles")),
    _niah("multikey_3", "MK3", "one UUID-UUID needle among needles", Needles("needles", "uuids", "uuids")),
    _niah("multivalue", "MV", "four values of one key in essays, all asked", Needles("essay", values=4)),
    _niah("multiquery", "MQ", "four word-number needles in essays, all asked", Needles("essay", keys=4, queries=4)),
    Spec("vt", "VT", "variable tracking: one chain of 4 hops in noise", 30),
    Spec("cwe", "CWE", "the ten most common words of a list", 120, needs=("words",)),
    Spec("fwe", "FWE", "the three most frequent words of a coded text", 50),
    Spec("qa_squad", "QA1", "SQuAD questions, their document among others", 32, "part", ("squad",)),
    Spec("qa_hotpot", "QA2", "HotpotQA questions, their documents among others", 32, "part", ("hotpot",)),
)
RULER_TASKS = {PREFIX + spec.name: spec for spec in SPECS}
ALL = tuple(RULER_TASKS)
OFFLINE = tuple(name for name, spec in RULER_TASKS.items() if set(spec.needs) <= {"words"})
