"""What the methods about image tokens share: which rows they edit, and what they do without an image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from pydantic import Field, Strict, ValidationError

from attnpatch.methods.vision.profile import Profile, read_profile
from attnpatch.patching.configured import TextOnly
from attnpatch.patching.edits import Change, Edit
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.method import Config, Method, build_config

if TYPE_CHECKING:
    from torch import nn

    from attnpatch.patching.calls import Call
    from attnpatch.patching.edits import RowsAt
    from attnpatch.patching.images import ImageHost, Images
    from attnpatch.patching.sites import Site

Integers = Annotated[tuple[int, ...], Strict(False)]  # also given as a list, as YAML and JSON have it


class VisionConfig(Config):
    text_only: TextOnly = "error"
    profile: str | None = Field(
        None, description="file of `attnpatch calibrate`; fills the options that are not given here"
    )


class VisionMethod(Method):
    """A method that acts on prompts with images; rows without one stay as they are, bit for bit.

    One that can find its options on a model defines `calibrate`. A subclass that defines `meet` calls
    `super().meet(host)` first: there a profile of another architecture is refused.
    """

    Config = VisionConfig
    needs_images = True

    def __init__(self, config: VisionConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.profile: Profile | None = None
        if self.config.profile is not None:
            self.profile = read_profile(self.config.profile, self.name)
            if config is not None:  # options have been filled already
                self.config = build_config(type(self), config.model_dump(exclude_unset=True))

    @classmethod
    def filled(cls, options: dict[str, Any]) -> dict[str, Any]:
        """`options` and, behind them, those of the profile that they name."""
        file = options.get("profile")
        if not isinstance(file, str):
            return options
        found = json.dumps(read_profile(file, cls.name).options)
        try:
            measured = cls.Config.model_validate_json(found).model_dump(exclude_unset=True)
        except ValidationError as error:
            first = error.errors()[0]
            raise AttnPatchError(
                f"profile {file!r}, option {'.'.join(map(str, first['loc']))}: {first['msg']}. Make it anew with "
                f"`attnpatch calibrate {cls.name} MODEL --images DIR --output FILE`."
            ) from None
        return {**measured, **options}

    @classmethod
    def calibrate(cls, model: nn.Module, batches: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Options for `model`, found by running it, and under "details" what was measured; JSON types.

        model: the vision-language model, unpatched, and left as it was; batches: inputs for it as the processor
        makes them, each a batch of prompts with images. Raises AttnPatchError where nothing can be found.
        """
        raise AttnPatchError(f"method {cls.name!r} has nothing to calibrate: its defaults are meant for every model.")

    def check(self, site: Site) -> str | None:
        if site.softcap:
            return "the layer caps its attention scores (softcap), which rows that are computed anew do not"
        return None

    def meet(self, host: ImageHost) -> None:
        if self.profile is not None:
            self.profile.require(host.text_config, self.config.profile)

    def edit_rows(
        self,
        call: Call,
        rows: Callable[[Call], Rows | None],
        change: Callable[[Call], Change],
        *,
        before_softmax: bool = False,
    ) -> None:
        """Edit the rows that `rows(call)` finds, if any, as a whole by `change(call)`; the same in all layers."""

        def make(call: Call) -> Edit | None:
            found = rows(call)
            if found is None:
                return None
            return Edit(change(call), before_softmax, found.first, found.mask, everywhere=True)

        call.edit_as(self, make)


class Rows(NamedTuple):
    """Query rows of a call: from `first` on, those where `mask` `[B, Q - first]` is True (None: all)."""

    first: int
    mask: torch.Tensor | None


def answer_rows(call: Call) -> Rows | None:
    """The rows that predict an answer token, of the prompts that have an image; None if there is none in this call.

    These are the last token of the prompt and all generated ones; padding and other rows of the batch are left out.
    """
    return None if call.images is None else _rows_from(call, call.images, before=1)


def generated_rows(call: Call, *, text_rows: bool = False) -> Rows | None:
    """The rows of generated tokens, of the prompts that have an image; None if there is none in this call.

    text_rows: of the prompts without an image too.
    """
    if text_rows:
        return None if call.forward.aside is not None else _rows_from(call, None, before=0)
    return None if call.images is None else _rows_from(call, call.images, before=0)


def _rows_from(call: Call, images: Images | None, *, before: int) -> Rows | None:
    """Rows from `before` tokens before the end of the prompt on, of prompts with `images` (None: of all prompts)."""
    memo = ("rows from", before, images is None, call.query.shape[2])
    if memo not in call.forward.memo:
        call.forward.memo[memo] = _find_rows(call, None if images is None or images.all else images.rows, before)
    return call.forward.memo[memo]


def _find_rows(call: Call, which: torch.Tensor | None, before: int) -> Rows | None:
    spans, offset, end, count = call.spans, call.offset, call.end, call.query.shape[2]
    prompt = call.forward.prompt_end
    if spans is None or all(stop == end for _, stop in spans):
        first = max(prompt - before - offset, 0)
        if first >= count:
            return None
        return Rows(first, None if which is None else which[:, None].expand(-1, count - first))
    # Padding on the right: a prompt that ends in this call ends where its padding begins.
    starts = [(prompt if stop == end else min(prompt, stop)) - before - offset for _, stop in spans]
    first = max(min(starts), 0)
    if first >= count:
        return None
    device = call.query.device
    row = torch.arange(first, count, device=device)
    stops = torch.tensor([stop - offset for _, stop in spans], device=device)[:, None]
    mask = (row >= torch.tensor(starts, device=device)[:, None]) & (row < stops)
    return Rows(first, mask if which is None else mask & which[:, None])


def boost(scores: torch.Tensor, by: torch.Tensor, size: torch.Tensor, at: RowsAt, alpha: float = 1.0) -> torch.Tensor:
    """`scores` `[B, H, R, K]` plus alpha `by` `[B, 1, 1, K]` times `size` `[B, H or 1, R, K]`; -inf (hidden) stays."""
    raised = torch.addcmul(scores, size, by, value=alpha)
    return raised if at.plain else torch.where(scores == -torch.inf, scores, raised)
