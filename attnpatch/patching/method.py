"""What a method is: one config, one class, and a name in the registry."""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from attnpatch.patching.configured import Config, Configured, build_config
from attnpatch.patching.errors import AttnPatchError, unknown_name
from attnpatch.patching.saved import Saved, read

if TYPE_CHECKING:
    import torch
    from torch import nn

    from attnpatch.patching.calls import Call, Inner
    from attnpatch.patching.forward import Forward
    from attnpatch.patching.images import ImageHost
    from attnpatch.patching.sites import Site
    from attnpatch.patching.tower import TowerRead

__all__ = [
    "Config", "Method", "build_config", "build_method", "method_class", "method_names", "methods", "register",
    "register_lazy",
]  # fmt: skip
ENTRY_POINT_GROUP = "attnpatch.methods"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Method(Configured):
    """One idea from a paper, as a piece of middleware around a site's attention.

    Subclass it, give it a `Config` and an `attend`, and decorate it with `@attnpatch.register("name")`.
    """

    kind = "method"
    depends_on_length: ClassVar[bool] = False  # appending tokens changes what earlier tokens see
    replaces_keys: ClassVar[bool] = False  # it decides which keys a query sees; one such method per site
    reads_whole_prompt: ClassVar[bool] = False  # what it does at a token may depend on later prompt tokens
    needs_hidden: ClassVar[bool] = False  # it reads `call.hidden`, the attention module's input
    needs_residual: ClassVar[bool] = False  # it reads `call.forward.residual`, the decoder layer's input
    needs_images: ClassVar[bool] = False  # it reads `call.forward.images`: only for models with image tokens
    compilable: ClassVar[bool] = False  # its attend() may be traced by torch.compile

    @property
    def evicts(self) -> bool:
        """True if `attend` calls `call.evict`: then the cache must be one that tokens can be dropped from."""
        return False

    @property
    def tower_reads(self) -> set[TowerRead]:
        """What `begin` finds in `forward.given.tower`: readings of the vision tower's attention (`needs_images`)."""
        return set()

    def check(self, site: Site) -> str | None:
        """Why this method cannot run at `site`, or None if it can. Called before anything is changed."""
        if not self.replaces_keys:
            return None
        if site.softcap:
            return "the layer caps its attention scores (softcap), which the sparse kernels do not compute"
        if not site.causal:
            return "the layer is not causal (prefix language model)"
        if site.kind == "chunked":
            return "the layer attends in chunks of its own"
        return None

    @property
    def trained(self) -> nn.Module | None:
        """Its trained parameters, which live beside the model; None if it has none."""
        return None

    def saved_config(self) -> dict[str, Any]:
        """The options to save with `trained`, as JSON."""
        return self.config.model_dump(mode="json")

    def saved_details(self) -> dict[str, Any]:
        """What else is needed to build `trained` anew, as JSON."""
        return {}

    @classmethod
    def from_pretrained(cls, location: str | Path, **options: Any) -> Method:
        """A trained method, ready to be applied: from a folder, a Hub id, or what ships, such as `sandbox:flux`.

        options: options to be changed. Raises AttnPatchError if there is none, or one of another method.
        """
        saved = read(location)
        if cls is not Method and saved.method != cls.name:
            raise AttnPatchError(f"{str(location)!r} holds a trained {saved.method!r}, not a {cls.name!r}.")
        return method_class(saved.method).from_saved(saved, options)

    @classmethod
    def from_saved(cls, saved: Saved, options: dict[str, Any]) -> Method:
        """The method as it was saved, with some options changed."""
        raise AttnPatchError(f"method {cls.name!r} has nothing that is trained, so {saved.location!r} cannot be it.")

    @classmethod
    def draws_at_random(cls, options: dict[str, Any]) -> bool:
        """True if results depend on the option `seed` under these options."""
        return "seed" in cls.Config.model_fields

    def meet(self, host: ImageHost) -> None:
        """Called first, before `check`, for methods that set `needs_images`: the vision-language model they go into.

        Raise here to refuse.
        """

    def prepare(self, sites: list[Site], model: nn.Module) -> None:
        """Called once with the sites to be patched and the text model, before installation; raise here to refuse.

        It may run the model, and must leave it as it was.
        """

    def begin(self, forward: Forward) -> None:
        """Called before the first layer of a prompt, for methods that set `needs_images`; `forward.given` is set.

        It may run the model by `forward.given.aside(...)`.
        """

    def attend(self, call: Call, inner: Inner) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output `[B, Q, H, Dv]` and weights `[B, H, Q, K]` or None; `inner(call)` is the next one down."""
        raise NotImplementedError(f"{type(self).__name__} must define attend(call, inner)")


_registry: dict[str, type[Method] | str] = {}
_plugins_found = False


def register(name: str):
    """Class decorator that makes a `Method` known as `name`.

    Raises:
        TypeError: the class is not a `Method`.
        AttnPatchError: the name is malformed or already taken by another class.
    """

    def decorate(cls: type[Method]) -> type[Method]:
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise TypeError(f"@register({name!r}) expects a subclass of attnpatch.Method, got {cls!r}.")
        _claim(name, cls)
        cls.name = name
        return cls

    return decorate


def register_lazy(name: str, target: str) -> None:
    """Make `name` known without importing its module; `target` is `"module:Class"`."""
    _claim(name, target)


def _claim(name: str, target: type[Method] | str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AttnPatchError(
            f"method name {name!r} is not allowed: lower-case letters, digits and underscores, letter first."
        )
    taken = _registry.get(name)
    if taken is not None and _target_of(taken) != _target_of(target):
        raise AttnPatchError(
            f"method name {name!r} is taken by {_target_of(taken)}; pick another name for {_target_of(target)}."
        )
    _registry[name] = target


def _target_of(entry: type[Method] | str) -> str:
    return entry if isinstance(entry, str) else f"{entry.__module__}:{entry.__qualname__}"


def _find_plugins() -> None:
    global _plugins_found
    if _plugins_found:
        return
    _plugins_found = True
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        register_lazy(point.name, point.value)


def method_names() -> list[str]:
    """Every registered name, plugins included, sorted."""
    _find_plugins()
    return sorted(_registry)


def method_class(name: str) -> type[Method]:
    """The class behind `name`; imports it on first use.

    Raises:
        AttnPatchError: unknown name (with a did-you-mean), or a plugin that cannot be imported.
    """
    _find_plugins()
    if name not in _registry:
        companions = "Companions of decoding, such as vcd, go to attnpatch.decoding.generate."
        raise unknown_name("method", name, _registry, otherwise=companions)
    target = _registry[name]
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        try:
            target = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise AttnPatchError(f"method {name!r} cannot be loaded from {target!r}: {error}") from error
        if not (isinstance(target, type) and issubclass(target, Method)):
            raise AttnPatchError(f"method {name!r}: {_registry[name]!r} is not a subclass of attnpatch.Method.")
        target.name = target.name or name
        _registry[name] = target
    return target


def methods() -> dict[str, type[Method]]:
    """All registered methods, by name."""
    return {name: method_class(name) for name in method_names()}


def build_method(method: str | Method | tuple, options: dict[str, Any] | None = None) -> Method:
    """A `Method` from a name, an instance or a `(name, options)` pair.

    Raises:
        AttnPatchError: unknown name or option, or options given to a finished instance.
        TypeError: anything else.
    """
    options = options or {}
    if isinstance(method, tuple) and len(method) == 2 and isinstance(method[1], dict) and not options:
        method, options = method
    if isinstance(method, Method):
        if options:
            raise AttnPatchError(
                f"options {sorted(options)} were given beside a finished {method!r}; set them when you build it."
            )
        return method
    if isinstance(method, type) and issubclass(method, Method):
        return method(**options)
    if isinstance(method, str):
        return method_class(method)(**options)
    raise TypeError(
        "method must be a name, a Method, a (name, options) pair or a list of those, "
        f"got {type(method).__name__}: {method!r}."
    )
