"""Attention inside the vision tower: a few rows of it, computed anew beside the tower's own fused attention.

Images are encoded apart from the prompt, and `generate()` does so before the prompt is run. What was read of the
tower's attention therefore travels with the encoded images themselves, and a prompt can only meet its own.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from attnpatch import kernels
from attnpatch.patching.errors import UnsupportedCallError, UnsupportedModelError
from attnpatch.patching.images import ENCODED, ImageHost, Seen
from attnpatch.patching.tower_tokens import MERGES, TowerScores, by_entry

_ENCODE, _PACK = "get_image_features", "pack_image_features"  # of the vision-language model
_CARRIED = "_attnpatch_tower"  # attribute of encoded images: the scores of what they were encoded from
_AT_ONCE = 128  # query rows whose weights are written out together


class TowerRead(NamedTuple):
    """One reading of the tower's attention: of a layer (negative ones count from the end), `[patches]` per picture.

    what: "cls", the row of the class token, summed over heads; "received", what a patch receives from the other
    patches, averaged over them and summed over heads; "either", the first where there is a class token.
    """

    layer: int
    what: Literal["cls", "received", "either"]


@dataclass(frozen=True)
class _Kind:
    """How an attention class of a tower is laid out. packed: pictures lie one behind another in one sequence."""

    cls: bool
    packed: bool = False


_KINDS = {
    "CLIPAttention": _Kind(cls=True),
    "InternVLVisionAttention": _Kind(cls=True),
    "SiglipAttention": _Kind(cls=False),
    "Idefics3VisionAttention": _Kind(cls=False),
    "SmolVLMVisionAttention": _Kind(cls=False),
    "VisionAttention": _Kind(cls=False, packed=True),  # of Qwen2-VL
    "Qwen2_5_VLVisionAttention": _Kind(cls=False, packed=True),
    "Qwen3VLVisionAttention": _Kind(cls=False, packed=True),
}


@dataclass(frozen=True)
class _Run:
    """One encoding of images. found: `[N, patches]` by reading; packed: `[tokens]` per image, if the model packs."""

    found: dict[TowerRead, torch.Tensor]
    packed: dict[TowerRead, list[torch.Tensor]]


class Tower:
    """The vision tower of a model: hooks and one attribute come while readings are asked for, and go with them."""

    def __init__(self, host: ImageHost) -> None:
        self.host = host.module
        self.name = type(host.module).__name__
        self.layers, self.kind = _attention_of(host.module)
        self.reads: frozenset[TowerRead] = frozenset()
        self._handles: list[Any] = []
        self._runs: dict[int, _Run] = {}  # by thread: the encoding that runs
        self._fresh: dict[int, TowerScores] = {}  # by thread: encoded inside the forward that is to use it

    def check(self, reads: set[TowerRead]) -> None:
        """Raises UnsupportedModelError for a reading that this tower does not have."""
        for read in reads:
            if not -len(self.layers) <= read.layer < len(self.layers):
                raise UnsupportedModelError(
                    f"the vision tower of {self.name} has {len(self.layers)} layers, so there is no layer "
                    f"{read.layer}. Allowed: {-len(self.layers)} to {len(self.layers) - 1}."
                )
            if read.what == "cls" and not self.kind.cls:
                raise UnsupportedModelError(
                    f"the vision tower of {self.name} ({type(self.layers[0]).__name__}) has no class token whose "
                    "attention could be read. Set no_cls='received' to take the attention that patches receive from "
                    "one another instead."
                )

    def watch(self, reads: set[TowerRead]) -> None:
        """Read this from now on; nothing at all leaves the tower as it was."""
        if frozenset(reads) == self.reads:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for name in (_ENCODE, _PACK):
            self.host.__dict__.pop(name, None)
        self.reads = frozenset(reads)
        if not reads:
            return
        layers = {self.layers[read.layer] for read in reads}
        self._handles = [layer.register_forward_pre_hook(self._read, with_kwargs=True) for layer in layers]
        self.host.__dict__[_ENCODE] = _Encode(self)
        if hasattr(type(self.host), _PACK):
            self.host.__dict__[_PACK] = _Pack(self)

    def forget(self) -> None:
        """A forward begins: what an earlier one of this thread has left is not its own."""
        self._fresh.pop(threading.get_ident(), None)

    def scores(self, seen: Seen | None) -> TowerScores:
        """What was read while the images of this prompt were encoded.

        Raises UnsupportedCallError where that is not known.
        """
        encoded = None if seen is None else seen.given.get(ENCODED)
        if encoded:
            found = getattr(encoded.get("image"), _CARRIED, None)
        else:
            found = self._fresh.pop(threading.get_ident(), None)
        if found is None or not self.reads <= found.reads:
            raise UnsupportedCallError(
                "the attention of the vision tower to these images is not known: they were encoded before the patch "
                "was applied, or in pieces (prefill_chunk_size), or they are videos. Give the pixels together with "
                "the whole prompt, to the patched model."
            )
        return found

    # while images are encoded

    @torch.compiler.disable
    @torch.no_grad()
    def _read(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        run = self._runs.get(threading.get_ident())
        if run is None:  # the tower is run by itself
            return
        hidden = kwargs.get("hidden_states", args[0] if args else None)
        for read in self.reads:
            if self.layers[read.layer] is not module:
                continue
            cls = self.kind.cls and read.what != "received"
            if self.kind.packed:
                found = _received_packed(module, hidden, kwargs)
            else:
                found = _rows(module, hidden, kwargs.get("attention_mask"), cls=cls, has_cls=self.kind.cls)
            run.found[read] = found

    def encode(self, args: tuple, kwargs: dict) -> Any:
        """The images as the model encodes them, with what was read of the tower meanwhile."""
        thread, run = threading.get_ident(), _Run({}, {})
        function = getattr(type(self.host), _ENCODE)
        self._runs[thread] = run
        try:
            output = function(self.host, *args, **kwargs)
        finally:
            del self._runs[thread]
        pooled = getattr(output, "pooler_output", None)
        if pooled is None or set(run.found) != self.reads:
            raise UnsupportedCallError(
                f"{self.name}.{_ENCODE} did not run the vision tower as expected (return_dict=False?), so its "
                "attention cannot be read."
            )
        counts = [len(entry) for entry in pooled if len(entry)]  # Idefics3: one per prompt, empty where no image is
        given = dict(zip(list(inspect.signature(function).parameters)[1:], args, strict=False)) | kwargs
        entries = {
            read: run.packed[read] if read in run.packed else by_entry(self.host, found, counts, given)
            for read, found in run.found.items()
        }
        scores = TowerScores(self.reads, entries, counts)
        object.__setattr__(output, _CARRIED, scores)
        self._fresh[thread] = scores
        return output

    def pack(self, args: tuple, kwargs: dict) -> Any:
        """Crops become one row of tokens: the scores go the same way, with NaN for tokens that end a line."""
        run = self._runs.get(threading.get_ident())
        function = getattr(type(self.host), _PACK)
        bound = inspect.signature(function).bind(self.host, *args, **kwargs)
        features = bound.arguments["image_features"]
        sizes = [len(crops) for crops in features]
        newline = bound.arguments.get("image_newline")
        mark = None if newline is None else torch.full((1,), torch.nan, device=newline.device)
        for read, found in () if run is None else run.found.items():
            crops = [part.unsqueeze(-1) for part in found.split(sizes)]
            own = inspect.signature(function).bind(self.host, *args, **kwargs)
            own.arguments.update(image_features=crops, image_newline=mark)
            packed, _ = function(*own.args, **own.kwargs)
            run.packed[read] = [entry.squeeze(-1) for entry in packed]
        return function(*bound.args, **bound.kwargs)


class _Along:
    """Stands before a method of the vision-language model; an object, so that a copied model calls its own."""

    name = ""

    def __init__(self, tower: Tower) -> None:
        self.tower = tower

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(getattr(type(self.tower.host), self.name))
        return own.replace(parameters=list(own.parameters.values())[1:])


class _Encode(_Along):
    name = _ENCODE

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tower.encode(args, kwargs)


class _Pack(_Along):
    name = _PACK

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tower.pack(args, kwargs)


def _attention_of(host: nn.Module) -> tuple[list[nn.Module], _Kind]:
    """The attention modules of the vision tower, from the first layer on, and what they are like."""
    family = getattr(host.config, "model_type", "")
    found = [module for module in host.modules() if type(module).__name__ in _KINDS]
    kinds = {type(module).__name__ for module in found}
    if family not in MERGES or len(kinds) != 1:
        raise UnsupportedModelError(
            f"which image token stands for which patch of the vision tower is not known for {type(host).__name__} "
            f"(model type {family!r}), so the tower's attention cannot be used. Known: {', '.join(sorted(MERGES))}."
        )
    return found, _KINDS[kinds.pop()]


def _rows(
    module: nn.Module, hidden: torch.Tensor, mask: torch.Tensor | None, *, cls: bool, has_cls: bool
) -> torch.Tensor:
    """`[N, patches]` of N pictures: the class token's row, or what patches receive; `hidden` `[N, S, C]`."""
    first = int(has_cls)
    query = _heads(module, "q", hidden[:, :1] if cls else hidden[:, first:])
    key = _heads(module, "k", hidden)
    visible = None
    if mask is not None:
        visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        visible = visible[:, :, :1]  # the same keys for every query: a tower hides padding only
    if cls:
        weights = kernels.row_weights(query, key, scale=module.scale, visible=visible)
        return weights[:, :, 0, 1:].sum(1)
    return _received(query, key, module.scale, visible, first)


def _heads(module: nn.Module, which: str, hidden: torch.Tensor) -> torch.Tensor:
    """Queries or keys `[N, H, S, D]`."""
    projected = getattr(module, f"{which}_proj")(hidden)
    projected = getattr(module, f"{which}_norm", nn.Identity())(projected)
    return projected.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)


def _received(
    query: torch.Tensor, key: torch.Tensor, scale: float, visible: torch.Tensor | None = None, first: int = 0
) -> torch.Tensor:
    """`[N, patches]`: the mean attention that each patch gets from the others, summed over heads.

    The queries are the patches, `[N, H, P, D]`; the keys `[N, H, first + P, D]` may begin with a class token.
    visible: `[N, 1, 1, first + P]`; patches that are padding neither count as queries nor get anything.
    """
    patches = query.shape[2]
    real = torch.ones(query.shape[0], patches, device=query.device) if visible is None else visible[:, 0, 0, first:]
    total = torch.zeros(query.shape[0], patches, device=query.device)
    for low, weights in _chunks(query, key, scale, visible):
        weights = weights[..., first:].sum(1)  # [N, R, P]
        own = torch.arange(low, low + weights.shape[1], device=query.device)
        weights[:, torch.arange(weights.shape[1], device=query.device), own] = 0
        total += (weights * real[:, own].unsqueeze(-1)).sum(1)
    return total / (real.float().sum(1, keepdim=True) - 1).clamp(min=1)


def _chunks(
    query: torch.Tensor, key: torch.Tensor, scale: float, visible: torch.Tensor | None
) -> Iterator[tuple[int, torch.Tensor]]:
    for low in range(0, query.shape[2], _AT_ONCE):
        rows = query[:, :, low : low + _AT_ONCE]
        yield low, kernels.row_weights(rows, key, scale=scale, visible=visible)


def _received_packed(module: nn.Module, hidden: torch.Tensor, kwargs: dict) -> torch.Tensor:
    """`[S]` for pictures that lie one behind another, `hidden` `[S, C]`; a picture sees itself, or its window."""
    turn = sys.modules[type(module).__module__].apply_rotary_pos_emb_vision
    query, key, _ = module.qkv(hidden).unflatten(-1, (3, module.num_heads, -1)).unbind(1)
    query, key = turn(query, key, *kwargs["position_embeddings"])
    bounds = kwargs["cu_seqlens"]
    lengths = (bounds[1:] - bounds[:-1]).tolist()
    query, key = (x.transpose(0, 1).unsqueeze(0).split(lengths, 2) for x in (query, key))
    return torch.cat([_received(q, k, module.scaling)[0] for q, k in zip(query, key, strict=True)])
