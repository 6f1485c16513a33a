"""Passes that a method runs for itself before a prompt: the prompt once more, or the prompt without its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from attnpatch.patching.errors import UnsupportedCallError
from attnpatch.patching.images import ImageHost, Images, Seen
from attnpatch.patching.masks import LazyMask, MaskSpec
from attnpatch.patching.own_positions import OwnPositions
from attnpatch.patching.text_only import text_only
from attnpatch.patching.tower_tokens import TowerScores

ASIDE_KEY = "attnpatch_aside"  # keyword that marks such a pass, from the vision-language model down to the text model
_KEPT = ("return_dict", "output_attentions")


@dataclass(frozen=True)
class Aside:
    """Marks a pass: the sequence it is run for, and whatever the method wants to find in `forward.aside`.

    prompt: where the declared prompt ends in it, None where it holds nothing else.
    """

    index: int
    purpose: Any
    prompt: int | None = None


@dataclass(frozen=True)
class Given:
    """What a prompt came with.

    host, seen: the vision-language model and its arguments (seen is None if the text model was called by itself);
    base, arguments: the text model and its own; index: number of the sequence; prompt: where its prompt was declared
    to end, None if it was not; tower: what was read of the vision tower, None where no method reads it.
    """

    host: ImageHost
    seen: Seen | None
    base: PreTrainedModel
    arguments: dict[str, Any]
    images: Images
    index: int
    prompt: int | None = None
    tower: TowerScores | None = None

    @property
    def padding(self) -> torch.Tensor | None:
        """Real tokens `[B, T]`, None where no mask was given.

        Raises UnsupportedCallError for a mask that does not say which tokens are padding.
        """
        return _padding((self.arguments if self.seen is None else self.seen.given).get("attention_mask"))

    def again(self, purpose: Any) -> None:
        """Run the text model over the same prompt, images included as they were encoded, without a cache."""
        mask = _without_cache(self.arguments.get("attention_mask"))
        with torch.no_grad():
            self.base(
                **{**self.arguments, "attention_mask": mask, "past_key_values": None, "use_cache": False},
                **{ASIDE_KEY: Aside(self.index, purpose, self.prompt)},
            )

    def without_images(self, purpose: Any, *, drop_wrappers: bool = True) -> torch.Tensor:
        """Run the model over the text of the prompts that have an image, left-padded; what follows is left out.

        drop_wrappers: leave out tokens that are there only because an image is, as far as the config names them.
        Returns the numbers of those rows. Raises UnsupportedCallError where the model was not called with its tokens,
        and for a prompt that is nothing but images.
        """
        if self.seen is None:
            raise UnsupportedCallError(
                "the text model was called by itself, with the images already in its embeddings, so the prompt "
                "without them cannot be run. Call the whole vision-language model."
            )
        rows, given = self.images.rows.nonzero().flatten(), self.seen.given
        cut = text_only(
            self.host,
            given,
            self.images.mask,
            rows,
            padding=self.padding,
            stop=self.prompt,
            drop_wrappers=drop_wrappers,
        )
        if bool(cut["attention_mask"].all()):
            del cut["attention_mask"]
        self._run(cut, purpose)
        return rows

    def _run(self, arguments: dict[str, Any], purpose: Any) -> None:
        module = self.host.module
        kept = {name: self.seen.given[name] for name in _KEPT if name in self.seen.given}
        with torch.no_grad(), OwnPositions(module).inside():
            module(**arguments, **kept, use_cache=False, **{ASIDE_KEY: Aside(self.index, purpose)})


def _without_cache(mask: Any) -> Any:
    """A prompt's attention mask without the columns of a cache that is longer than the prompt."""
    if isinstance(mask, dict):  # one per kind of layer
        return {kind: _without_cache(one) for kind, one in mask.items()}
    if not isinstance(mask, LazyMask) or mask.shape[-1] == mask.shape[-2]:
        return mask
    asked, tokens = mask.spec.arguments, mask.shape[-2]
    padding = None if mask.spec.padding is None else mask.spec.padding[:, :tokens]
    return LazyMask(
        MaskSpec(mask.spec.base, {**asked, "kv_length": tokens, "kv_offset": 0, "attention_mask": padding})
    )


def _padding(mask: Any) -> torch.Tensor | None:
    """Real tokens `[B, T]` of an attention mask as the model takes it; None where nothing is padded.

    Raises UnsupportedCallError for a mask that does not say which tokens are padding.
    """
    if isinstance(mask, dict):  # one per kind of layer, all of the same tokens
        mask = next(iter(mask.values()))
    if isinstance(mask, LazyMask):
        return mask.spec.padding
    if mask is None or mask.ndim == 2:
        return mask
    raise UnsupportedCallError(
        f"the attention mask has {mask.ndim} dimensions, so which tokens of the prompt are padding cannot be known; "
        "pass the 2-D attention_mask [batch, tokens] instead."
    )
