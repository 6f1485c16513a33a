"""How tasks with pictures are asked: everything that a user may set, and that cells record."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SUFFIX = "\nAnswer the question using a single word or phrase."


class VisionSettings(BaseModel):
    """Part of a suite.

    answer_tokens, caption_tokens: new tokens at most; CHAIR grows with the length of captions, so compare at one
    value only. suffix: what follows questions of POPE and AMBER; MME's questions say themselves how to answer.
    caption_prompt: of CHAIR; AMBER brings its own. chat_template: use the processor's where it has one. scenes: which
    scenes of the vision sandbox: settings are chosen on dev, results come from test. on_bad: stop at an annotation or
    image that cannot be used, or skip and count it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    answer_tokens: int = Field(16, ge=1)
    caption_tokens: int = Field(512, ge=1)
    suffix: str = SUFFIX
    caption_prompt: str = "Please describe this image in detail."
    chat_template: bool = True
    scenes: Literal["dev", "test"] = "test"
    on_bad: Literal["stop", "skip"] = "stop"
