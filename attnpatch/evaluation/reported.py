"""Numbers that others published, as a suite holds them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from attnpatch.evaluation import tasks
from attnpatch.evaluation.sizes import parse_tokens

WHOLE = "mean"  # the metric of a group of ours, such as ruler: the mean over its tasks


class Reported(BaseModel):
    """One published line of numbers, for one model.

    name: what it is called. scores: the metric per task that it is the mean of, with `mean` for a group of ours
    (`{ruler: mean}`). lengths: empty for documents as long as they are. values: per label of a method, or
    `label @keys` at a budget, one number, or one per length; methods that the suite does not run may stand among
    them. scale: what our scores are multiplied by, 100 for percent. source: table or figure. tag: "paper" as printed
    there, "secondary" from someone's account of it. note: what is not known about how it was measured, or differs
    from how we do it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    model: str
    scores: dict[str, str] = Field(min_length=1)
    lengths: list[int] = []
    values: dict[str, float | list[float]] = Field(min_length=1)
    scale: float = Field(1.0, gt=0)
    source: str
    tag: Literal["paper", "secondary"]
    note: str = ""

    @field_validator("lengths", mode="before")
    @classmethod
    def _tokens(cls, value: Any) -> Any:
        return [parse_tokens(one) for one in value] if isinstance(value, (list, tuple)) else value

    @field_validator("scores")
    @classmethod
    def _groups(cls, value: dict[str, str]) -> dict[str, str]:
        for task, metric in value.items():
            if (metric == WHOLE) != (task in tasks.GROUPS):
                groups = ", ".join(tasks.GROUPS)
                raise ValueError(f"metric {WHOLE!r} is for groups of tasks of ours ({groups}), and only for them")
        return value

    @model_validator(mode="after")
    def _as_many(self) -> Reported:
        wanted = len(self.lengths)
        for method, value in self.values.items():
            given = len(value) if isinstance(value, list) else 0
            if given != wanted:
                raise ValueError(
                    f"{self.name!r}: {method!r} has {given or 'one'} values for {wanted or 'no'} lengths; give a list "
                    "with one number per length, or a number where documents are as long as they are"
                )
        return self

    def at(self, method: str) -> list[tuple[int | None, float]]:
        """`(length, value)` of a method."""
        value = self.values[method]
        return list(zip(self.lengths, value, strict=True)) if isinstance(value, list) else [(None, value)]
