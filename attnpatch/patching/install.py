"""The one place that changes a model: hooks, plans and the config field, put in together and taken out together."""

from __future__ import annotations

import inspect
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import torch

from attnpatch.patching import eviction
from attnpatch.patching.asides import ASIDE_KEY, Aside, Given
from attnpatch.patching.dispatch import (
    FORWARD_KEY,
    PLAN_KEY,
    Link,
    SitePlan,
    Stock,
    hand_down_hidden,
    hand_down_residual,
)
from attnpatch.patching.forward import Forward, PackedSample, fitting_samples
from attnpatch.patching.images import (
    SEEN_KEY,
    ImageHost,
    Images,
    Seen,
    images_of,
    look,
    refuse_no_image,
    refuse_unknown_cache,
)
from attnpatch.patching.masks import LazyMask
from attnpatch.patching.sites import PREFIX, Site, TextModel
from attnpatch.patching.tower import Tower

if TYPE_CHECKING:
    from attnpatch.patching.method import Method
    from attnpatch.patching.patch import Patch

INSTALLATION_KEY = "attnpatch_installation"  # entry in the text base model's __dict__


class Installation:
    """Everything attnpatch keeps in one model. It appears with the first patch and goes with the last."""

    def __init__(self, text: TextModel) -> None:
        self.base = text.base
        self.name = PREFIX + text.implementation
        self.original = text.base.config._attn_implementation_internal
        self.first_layer = text.sites[0].layer
        self.sites: dict[str, Site] = {site.name: site for site in text.sites}
        self.beyond = text.skipped  # layers that mix tokens where no method can reach
        self.argument_names = list(inspect.signature(type(text.base).forward).parameters)[1:]
        self.patches: list[Patch] = []
        self.handles: list = []
        self.host: ImageHost | None = None  # the vision-language model around, once a method asks for its images
        self.tower: Tower | None = None  # its vision tower, once a method asks for attention in there
        self.input_handles: dict[tuple, Any] = {}  # hooks that hand down what some methods ask for
        self.declared_prompt: int | None = None
        self.declared_samples: tuple[PackedSample, ...] | None = None
        self.declared_images: torch.Tensor | None = None
        self.sequences = 0
        self.traceable = True
        self.evicting: frozenset[int] = frozenset()  # layers whose method drops tokens from the cache
        self.asking: list[Method] = []  # methods about images
        self.warned: set[str] = set()
        self.states: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        # A copied model starts with no sequences of its own: the caches are not copied with it.
        return {key: value for key, value in self.__dict__.items() if key != "states"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, states=weakref.WeakKeyDictionary())

    # in and out

    def add(self, patch: Patch) -> None:
        """Put `patch` on top; on any error everything is as it was."""
        if any(method.evicts for method in patch.methods):
            eviction.check_config(self.base.config)
        self.patches.append(patch)
        try:
            if not self.handles:
                self.base.__dict__[INSTALLATION_KEY] = self
                self.handles = [
                    self.base.register_forward_pre_hook(self._begin, with_kwargs=True),
                    self.base.register_forward_hook(self._end, with_kwargs=True),
                ]
            self.rebuild()
            self.base.config._attn_implementation_internal = self.name
        except BaseException:
            self.remove(patch)
            raise

    def remove(self, patch: Patch) -> None:
        """Take `patch` out, wherever it stands in the chain; the last one restores the model."""
        if patch not in self.patches:
            return
        self.patches.remove(patch)
        self.rebuild()
        if self.patches:
            return
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self.base.__dict__.pop(INSTALLATION_KEY, None)
        if self.base.config._attn_implementation_internal == self.name:
            self.base.config._attn_implementation_internal = self.original
        elif self.base.config._attn_implementation_internal != self.original:
            warnings.warn(
                f"the model's attention implementation is {self.base.config._attn_implementation!r} now, not ours: "
                "it was changed while the patch was in; it is left as it is.",
                stacklevel=4,
            )

    def rebuild(self) -> None:
        """Compose each site's chain from the enabled patches, innermost first."""
        links: dict[str, Any] = {}
        touched = any(patch.site_names for patch in self.patches)
        self.traceable = True
        evicting, wanted, reads = set(), set(), set()
        for patch in self.patches:
            if not patch.enabled:
                continue
            for method, name, stats in patch.placements():
                links[name] = Link(method, links.get(name, Stock()), stats)
                self.traceable &= method.compilable
                wanted |= _inputs_for(method, name)
                reads |= method.tower_reads
                if method.evicts and self.sites[name].kind == "full":
                    evicting.add(self.sites[name].layer)
        self.evicting = frozenset(evicting)
        self.asking = [m for p in self.patches if p.enabled for m in p.methods if m.needs_images]
        eviction.disarm(self.states)
        self._hand_down(wanted)
        if self.tower is not None:
            self.tower.watch(reads)
        for name in self.sites:
            module = self.base.get_submodule(name)
            if not touched:
                module.__dict__.pop(PLAN_KEY, None)
                continue
            plan = module.__dict__.get(PLAN_KEY) or SitePlan(self.sites[name], module)
            plan.chain, plan.traceable = links.get(name), self.traceable
            module.__dict__[PLAN_KEY] = plan

    def _hand_down(self, wanted: set[tuple[str, str]]) -> None:
        """Hooks for what is wanted and none for the rest."""
        for key in set(self.input_handles) - wanted:
            self.input_handles.pop(key).remove()
        for what, name in wanted - set(self.input_handles):
            module = self.host.module if what == "images" else self.base.get_submodule(name)
            hook = {"hidden": hand_down_hidden, "residual": hand_down_residual, "images": self._look}[what]
            self.input_handles[what, name] = module.register_forward_pre_hook(hook, with_kwargs=True)

    # one forward

    def _look(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self.base.config._attn_implementation_internal != self.name:
            return None
        if self.tower is not None:
            self.tower.forget()
        given = {**dict(zip(self.host.arguments, args, strict=False)), **kwargs} if args else kwargs
        return args, {**kwargs, SEEN_KEY: look(self.host, given)}

    def _begin(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        seen, aside = kwargs.pop(SEEN_KEY, None), kwargs.pop(ASIDE_KEY, None)
        if module.config._attn_implementation_internal != self.name:
            self._warn_switched_off(module.config._attn_implementation_internal)
            return None
        if not torch.compiler.is_compiling():
            forward = self._open(args, kwargs, seen, aside)
        elif self.traceable:
            forward = Forward()  # a graph may read nothing that changes from call to call
        else:
            forward = self._open_untraced(args, kwargs, seen, aside)
        return args, {**kwargs, FORWARD_KEY: forward}

    @torch.compiler.disable
    def _open_untraced(self, *given: Any) -> Forward:
        return self._open(*given)

    def _open(self, args: tuple, kwargs: dict, seen: Seen | None, aside: Aside | None) -> Forward:
        given = {**dict(zip(self.argument_names, args, strict=False)), **kwargs} if args else kwargs
        tokens = given.get("input_ids")
        if tokens is None:
            tokens = given.get("inputs_embeds")
        q_len = tokens.shape[1]
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        offset = 0
        if cache is not None:
            ask = getattr(cache, "get_query_offset", cache.get_seq_length)
            offset = int(ask(self.first_layer))
        state = self._state(cache, offset)
        if aside is not None:
            state.update(index=aside.index, prompt_end=q_len)
        elif offset == 0:
            state.update(index=self.sequences, prompt_end=q_len)
            self.sequences += 1 if self.declared_samples is None else len(self.declared_samples)
        plain = isinstance(mask, torch.Tensor) and mask.ndim == 2
        masks = mask.values() if isinstance(mask, dict) else (mask,)
        forward = Forward(
            q_len=q_len,
            offset=offset,
            padding=mask if plain else None,
            ready_mask=any(isinstance(m, torch.Tensor) and m.ndim == 4 and not isinstance(m, LazyMask) for m in masks),
            index=state.get("index", self.sequences),
            state=state,
            declared_prompt=self.declared_prompt if aside is None else aside.prompt,
            cache=cache,
        )
        if self.declared_samples is not None:
            forward.samples = fitting_samples(self.declared_samples, tokens, given.get("position_ids"), mask, cache)
        if self.evicting and cache is not None:
            forward.held = eviction.open_cache(cache, self.evicting)
        if aside is not None:
            forward.aside = aside.purpose
        elif self.asking:
            self._open_images(forward, seen, given, tokens.shape[0])
        return forward

    def _open_images(self, forward: Forward, seen: Seen | None, given: dict, rows: int) -> None:
        before: Images | None = forward.state.get("images")
        if forward.offset and before is None and self.declared_images is None:
            refuse_unknown_cache(self.asking, forward.offset)
        images = images_of(seen, self.declared_images, rows, forward.q_len, forward.offset, before)
        forward.state["images"] = images
        forward.images = images if images is not None and images.any else None
        if forward.images is None and forward.offset == 0:
            refuse_no_image(self.asking)
        if forward.images is not None and forward.offset == 0:
            tower = self.tower.scores(seen) if any(method.tower_reads for method in self.asking) else None
            forward.given = Given(
                self.host, seen, self.base, given, images, forward.index, self.declared_prompt, tower
            )
            for method in self.asking:
                method.begin(forward)
            forward.given = None  # it holds pictures

    def _state(self, cache: object | None, offset: int) -> dict:
        if cache is None:
            return {}
        if offset == 0 or cache not in self.states:
            self.states[cache] = {}
        return self.states[cache]

    def _end(self, module: torch.nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        forward: Forward | None = kwargs.get(FORWARD_KEY)
        if forward is None:
            return
        if not torch.compiler.is_compiling():
            self._close(forward, output)
        elif not self.traceable:
            self._close_untraced(forward, output)

    @torch.compiler.disable
    def _close_untraced(self, *given: Any) -> None:
        self._close(*given)

    def _close(self, forward: Forward, output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None and cache not in self.states:  # made inside the forward
            self.states[cache] = forward.state
        eviction.close(forward, cache)
        forward.parts = {}  # they point back at it: what it held would wait for the garbage collector
        if not forward.calls and forward.aside is None and any(patch.enabled for patch in self.patches):
            self._warn("silent", "no attention call reached attnpatch in this forward: the patch had no effect.")

    def _warn_switched_off(self, found: str) -> None:
        self._warn(
            found,
            f"the attention implementation was set to {found!r} under the patch, so the patch has no effect. Remove "
            f"the patch first, or go back with model.set_attn_implementation({self.name!r}).",
        )

    def _warn(self, key: str, message: str) -> None:
        if key not in self.warned:
            self.warned.add(key)
            warnings.warn(f"attnpatch: {message}", stacklevel=2)


def _inputs_for(method: Method, site: str) -> set[tuple[str, str]]:
    """What has to be handed down to `method` at `site`, as (what, name of the text model's module)."""
    wanted = {("hidden", site)} if method.needs_hidden else set()
    if method.needs_residual:
        wanted.add(("residual", site.rpartition(".")[0]))
    if method.needs_images:
        wanted.add(("images", ""))
    return wanted
