"""Where a prompt's image tokens stand: read from what the model is given, remembered with the cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from attnpatch.patching.columns import Columns
from attnpatch.patching.errors import AttnPatchError, UnsupportedCallError, UnsupportedModelError

SEEN_KEY = "attnpatch_images"  # keyword that carries what the vision-language model was given to its text model
_PIXELS = ("pixel_values", "pixel_values_videos")  # what brings images into a forward: raw,
ENCODED = "mm_encoder_outputs"  # or as generate() has encoded them
_NO_PIXELS = (  # what can come with a prompt and holds no image; any other argument may
    "input_ids", "attention_mask", "position_ids", "past_key_values", "cache_position", "token_type_ids",
    "mm_token_type_ids", "labels", "logits_to_keep", "image_sizes", "image_sizes_videos", "image_grid_thw",
    "video_grid_thw", "second_per_grid_ts", "batch_num_images", "pixel_attention_mask", *_PIXELS, ENCODED,
)  # fmt: skip
_ACTS = {  # on what, and how it is called, by kind
    "method": ("acts on attention to images", "attnpatch.apply(model"),
    "companion": ("changes the logits of prompts with images", "attnpatch.decoding.generate(model, inputs"),
}
_IMAGE_IDS = ("image_token_id", "video_token_id")
_WRAPPER_IDS = (
    "vision_start_token_id", "vision_end_token_id", "boi_token_index", "eoi_token_index", "boi_token_id",
    "eoi_token_id",
)  # fmt: skip


@dataclass(frozen=True)
class ImageHost:
    """The vision-language model around a text model.

    module: it takes input_ids and images and calls the text model; arguments: what its forward takes; tokens: ids that
    stand for an image in the sequence; wrappers: ids of tokens that are there only because an image is.
    """

    module: PreTrainedModel
    arguments: tuple[str, ...]
    tokens: tuple[int, ...]
    wrappers: tuple[int, ...]

    @property
    def text_config(self) -> PreTrainedConfig:
        """The config of the text model."""
        return self.module.config.get_text_config(decoder=True)


@dataclass
class Seen:
    """What the vision-language model was given in one forward, all arguments by name."""

    host: ImageHost
    given: dict[str, Any]

    @property
    def pictured(self) -> bool:
        """Did it come with images, raw or encoded?"""
        return any(self.given.get(key) is not None for key in _PIXELS) or bool(self.given.get(ENCODED))

    @property
    def bare(self) -> bool:
        """Did it certainly come without images? An argument that is not known here may hold them."""
        settings = (bool, int, float, str)
        return not self.pictured and all(
            value is None or name in _NO_PIXELS or isinstance(value, settings) for name, value in self.given.items()
        )

    @cached_property
    def mask(self) -> torch.Tensor | None:
        """Where the image tokens are, bool `[B, Q]`; None where that cannot be told."""
        ids, embeds = self.given.get("input_ids"), self.given.get("inputs_embeds")
        if ids is not None:
            return reduce(torch.logical_or, [ids == token for token in self.host.tokens])
        if embeds is None or not self.pictured:
            return None
        table = self.host.module.get_input_embeddings()
        marks = table(torch.tensor(self.host.tokens, device=embeds.device)).to(embeds.dtype)
        return (embeds.unsqueeze(2) == marks).all(-1).any(2)


@dataclass(eq=False)
class Images:
    """The image tokens of a batch.

    mask: bool `[B, T]`, by absolute index, of the sequence as far as it was given (generated tokens are not images).
    ids: the tokens `[B, T]`, None where the model was given embeddings.
    """

    mask: torch.Tensor
    ids: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.rows: torch.Tensor = self.mask.any(1)  # bool [B]: which rows have an image
        has = self.rows.tolist()
        self.any, self.all = any(has), all(has)
        self._keys = Columns(self.mask)

    @cached_property
    def first(self) -> torch.Tensor:
        """Index of each row's first image token, `[B]`; T if there is none."""
        return torch.where(self.rows, self.mask.int().argmax(1), self.mask.shape[1])

    @cached_property
    def stop(self) -> torch.Tensor:
        """Index just behind each row's last image token, `[B]`; 0 if there is none."""
        return (self.mask * torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)).amax(1)

    @cached_property
    def marks(self) -> Columns:
        """fp32 `[B, 1, 1, T]`, 1 at image tokens."""
        return Columns(self.mask[:, None, None].float())

    def keys(self, first: int, count: int) -> torch.Tensor:
        """Which of the keys first..first+count-1 are image tokens, bool `[B, count]`."""
        return self._keys.at(first, count)

    def of_rows(self, rows: list[int]) -> Images:
        return Images(self.mask[rows], None if self.ids is None else self.ids[rows])

    def followed_by(self, mask: torch.Tensor, ids: torch.Tensor | None, offset: int) -> Images:
        """These images and the tokens that come from index `offset` on."""
        known = None if self.ids is None or ids is None else torch.cat([Columns(self.ids).at(0, offset), ids], 1)
        return Images(torch.cat([self.keys(0, offset), mask], 1), known)


def image_host(outer: PreTrainedModel, base: PreTrainedModel, skipped: tuple[tuple[str, str], ...]) -> ImageHost:
    """The vision-language model around `base` inside `outer`.

    Raises UnsupportedModelError, with the reason, where no image token stands in the sequence.
    """
    around = [m for m in outer.modules() if isinstance(m, PreTrainedModel) and m is not base and _holds(m, base)]
    name = type(outer).__name__
    if any(reason.startswith("cross-attention") for _, reason in skipped):
        raise UnsupportedModelError(
            f"{name} takes images in through cross-attention layers: no image token stands in the text sequence, so a "
            "method about attention to image tokens has nothing to act on."
        )
    tokens = {getattr(m.config, key, None) for m in around for key in _IMAGE_IDS} - {None}
    if not around or not tokens:
        raise UnsupportedModelError(
            f"{name} has no image tokens (its config names no image_token_id), and this method is about attention to "
            "them. Give the whole vision-language model, such as LlavaForConditionalGeneration."
        )
    wrappers = {getattr(m.config, key, None) for m in around for key in _WRAPPER_IDS} - {None}
    arguments = tuple(inspect.signature(type(around[-1]).forward).parameters)[1:]
    return ImageHost(around[-1], arguments, tuple(sorted(tokens)), tuple(sorted(wrappers)))


def _holds(module: nn.Module, base: nn.Module) -> bool:
    return any(one is base for one in module.modules())


def look(host: ImageHost, given: dict[str, Any]) -> Seen:
    """What `host` was given. Raises UnsupportedCallError for images without any image token."""
    seen = Seen(host, given)
    if seen.pictured and seen.mask is not None and not bool(seen.mask.any()):
        raise UnsupportedCallError(
            f"images were given, but no token of the prompt stands for one (id {', '.join(map(str, host.tokens))} in "
            f"{type(host.module).__name__}). Was the prompt made by the processor of another model? Use "
            "AutoProcessor.from_pretrained on this model's own id."
        )
    return seen


def declared(mask: Any) -> torch.Tensor:
    """`mask` as bool `[B, T]`; raises AttnPatchError if it is something else."""
    mask = torch.as_tensor(mask)
    if mask.ndim != 2 or (mask.dtype.is_floating_point):
        raise AttnPatchError(
            f"images() takes a bool mask [batch, tokens], True at image tokens; got {mask.dtype} {list(mask.shape)}."
        )
    return mask.bool()


def images_of(
    seen: Seen | None, given: torch.Tensor | None, rows: int, q_len: int, offset: int, before: Images | None
) -> Images | None:
    """The images of the sequence up to and with this forward.

    seen: what the vision-language model was given, None if the text model was called by itself. given: a declared
    mask `[B, T]`. before: what is remembered of the same cache. Raises UnsupportedCallError where it cannot be known,
    and for a prompt with image tokens that came without its images.
    """
    if offset and q_len == 1 and given is None and before.mask.shape[0] == rows:
        return before  # a generated token, the case that must be quick
    if offset and before is not None and before.mask.shape[0] != rows:
        raise UnsupportedCallError(
            f"the cache was filled by {before.mask.shape[0]} rows and is continued by {rows}; which images belong to "
            "which row is unknown."
        )
    if given is not None and (before is None or offset < given.shape[1]):
        if given.shape[0] != rows:
            raise UnsupportedCallError(f"images() declared {given.shape[0]} rows, the model was given {rows}.")
        return Images(given)
    ids = None if seen is None else seen.given.get("input_ids")
    mask = None if seen is None else seen.mask
    if offset and before is not None and mask is None:
        return before  # more text
    if mask is None:
        raise UnsupportedCallError(
            "the prompt came as embeddings that already hold the images, so where they stand cannot be known. Give "
            "input_ids, or say it: `with patch.images(mask): ...` with a bool mask [batch, tokens], True at images."
        )
    if offset:
        return before.followed_by(mask, ids, offset)
    refuse_placeholders(seen)
    return Images(mask, ids)


def refuse_placeholders(seen: Seen) -> None:
    """Raises UnsupportedCallError for the start of a prompt whose image tokens certainly came without their images."""
    count = int(seen.mask.sum()) if seen.bare else 0
    if count:
        raise UnsupportedCallError(
            f"the prompt holds {count} image {'token' if count == 1 else 'tokens'} (id "
            f"{', '.join(map(str, seen.host.tokens))}), but no pixels came with it ({' or '.join(_PIXELS)}), so there "
            "is no image to look at. Pass everything that the processor returned: model.generate(**inputs). A prompt "
            "without an image must not hold its token."
        )


def refuse_no_image(asking: Iterable[Any]) -> None:
    """Raises UnsupportedCallError if a method or companion does not let prompts without any image pass."""
    for one in asking:
        if getattr(one.config, "text_only", "stock") == "error":
            acts, call = _ACTS[one.kind]
            raise UnsupportedCallError(
                f"no prompt of this batch holds an image, and {one.kind} {one.name!r} {acts}, so it would do nothing. "
                "Pass the images with the prompt, or let such prompts through untouched: "
                f"{call}, {one.name!r}, text_only='stock')."
            )


def refuse_unknown_cache(asking: Iterable[Any], filled: int) -> None:
    """Raises UnsupportedCallError for a cache of `filled` tokens that did not run under the methods of `asking`."""
    names = " and ".join(repr(method.name) for method in asking)
    raise UnsupportedCallError(
        f"the cache holds {filled} tokens that did not run under method {names}, so where their images stand is "
        "unknown (a copy of a cache counts as another one). Apply the method before the prompt, with a new cache, or "
        "say it: `with patch.images(mask): ...` with a bool mask [batch, tokens], True at images."
    )
