"""The options of flux."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attnpatch.methods.flux import plans
from attnpatch.patching.method import Config

UNTRAINED = "untrained"
# What is saved with a router, and what holds where neither that nor the user says otherwise.
SETTINGS = {"sparse": "sliding", "sparse_options": {}, "sink": 128, "local": 2048, "decode": "sparse"}


class FluxConfig(Config):
    router: str | None = Field(
        None, description="trained router: a folder, a Hub id, sandbox:flux, or 'untrained' for random weights"
    )
    plan: str | list[int] | None = Field(
        None,
        description="in place of a router: full, sparse, one letter per layer (sfss), or random:0.5, entropy:0.5, "
        "calibrate:0.5 with the share of sparse layers",
    )
    sparse: str | None = Field(
        None, description="the sparse arm, a method that replaces keys. Default: as trained, else sliding"
    )
    sparse_options: dict[str, Any] | None = Field(
        None,
        description="options of the arm; sliding and triangle take local and sink. Default: as trained, or none",
    )
    sink: int | None = Field(
        None, ge=0, description="first tokens a sparse layer always sees. Default: as trained, else 128"
    )
    local: int | None = Field(
        None, ge=1, description="last tokens a sparse layer sees, itself included. Default: as trained, else 2048"
    )
    decode: Literal["sparse", "dense"] | None = Field(
        None, description="what generated tokens see in a sparse layer: sink + local, or all. Default: sparse"
    )
    evict: bool = Field(False, description="layers that are sparse for the whole batch keep sink + local keys only")
    prompts: str | list[list[int]] | None = Field(
        None, description="what entropy and calibrate look at: token ids, or a JSON-lines file of {'input_ids': [...]}"
    )
    seed: int = Field(0, ge=0, description="of random plans and untrained routers")

    @field_validator("plan")
    @classmethod
    def _readable(cls, plan: str | list[int] | None) -> str | list[int] | None:
        return None if plan is None else plans.check(plan)

    @model_validator(mode="after")
    def _one_way_to_decide(self) -> FluxConfig:
        if (self.router is None) == (self.plan is None):
            given = "both were" if self.router else "neither was"
            raise ValueError(f"flux takes a trained router= or a fixed plan=, and {given} given. {plans.HELP}")
        kind = self.plan.partition(":")[0] if isinstance(self.plan, str) else None
        if kind in plans.NEEDS_PROMPTS and self.prompts is None:
            raise ValueError(
                f"plan={self.plan!r} ranks layers on a few prompts; give prompts=, token ids or a JSON-lines file"
            )
        if self.evict and self.decode == "dense":
            raise ValueError("evict=True drops keys that decode='dense' would read; use decode='sparse'")
        return self
