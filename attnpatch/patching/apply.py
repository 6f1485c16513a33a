"""apply(): plan, validate, build, install. Everything that can fail happens before the first change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnpatch.patching.errors import AttnPatchError, UnsupportedModelError
from attnpatch.patching.images import ImageHost, image_host
from attnpatch.patching.install import INSTALLATION_KEY, Installation
from attnpatch.patching.layers import LayerSpec, select_layers
from attnpatch.patching.method import Method, build_method, method_class
from attnpatch.patching.patch import Patch
from attnpatch.patching.sites import Site, TextModel, inspect_model, text_base, unwrap
from attnpatch.patching.tower import Tower

MethodSpec = str | Method | tuple[str, dict[str, Any]]


def apply(
    model: object,
    method: MethodSpec | list[MethodSpec],
    *,
    layers: LayerSpec | None = None,
    **options: Any,
) -> Patch:
    """Change how `model` attends, until `patch.remove()`.

    Args:
        model: a PreTrainedModel, or a pipeline, PEFT, torch.compile or DDP wrapper around one.
        method: a name (see `attnpatch.methods()`), a `Method`, a `(name, options)` pair, or a list of those, the
            first one innermost.
        layers: "all" (default), an index or a list of indices and slices (negative ones count from the end), text
            such as "0,4:8,-1", or a callable that takes the layer index. Of a method, given by name, that has an
            option `layers` itself, it is that option.
        options: the method's own options; see `attnpatch show METHOD`.

    Returns:
        The patch: `.remove()`, `.disabled()`, `.report()`, and a context manager.

    Raises:
        TypeError: `model` or `method` is something else.
        AttnPatchError: an unknown method, option or layer, a value out of range, or a second method that replaces the
            keys at a site.
        UnsupportedModelError: the model, or every selected layer of it, cannot be patched; says why.

    Whenever it raises, the model is unchanged.
    """
    text = inspect_model(model)
    if layers is not None and isinstance(method, str) and "layers" in method_class(method).Config.model_fields:
        options, layers = {**options, "layers": layers}, None
    built = _build(method, options)
    chosen = select_layers(layers, text.layers)
    installation = text.base.__dict__.get(INSTALLATION_KEY) or Installation(text)
    installation.host = introduce(built, model, text) or installation.host
    placed, skipped = _place(built, text, chosen)
    _refuse_second_key_replacer(placed, installation)
    reads = set().union(*(method.tower_reads for method in built))
    if reads:
        installation.tower = installation.tower or Tower(installation.host)
        installation.tower.check(reads)
    numbered = installation.sequences
    try:
        for one, sites in placed:
            one.prepare(sites, text.base)
    finally:
        installation.sequences = numbered  # what a method ran to prepare itself is not the user's
    patch = Patch(installation, text.model_class, placed, skipped)
    installation.add(patch)
    return patch


def introduce(methods: list[Method], model: object, text: TextModel) -> ImageHost | None:
    """Methods about images meet the vision-language model they go into, before their `check`; None if there is none.

    Raises UnsupportedModelError or AttnPatchError where one of them cannot go into it, with the reason.
    """
    asking = [method for method in methods if method.needs_images]
    if not asking:
        return None
    host = image_host(unwrap(model), text.base, text.skipped)
    for method in asking:
        method.meet(host)
    return host


def load(model: object, location: str | Path, *, layers: LayerSpec | None = None, **options: Any) -> Patch:
    """Apply a trained method as `patch.save_pretrained` or `attnpatch train` left it.

    Args:
        model: as in `apply`, of the architecture that the method was trained for.
        location: a folder, a Hub id, or what ships with the package, such as `sandbox:flux`.
        layers: as in `apply`.
        options: options to be changed.

    Raises:
        AttnPatchError: nothing is saved there, or a file of it is missing or damaged.
        UnsupportedModelError: the model is of another architecture, and as `apply`.
    """
    return apply(model, Method.from_pretrained(location, **options), layers=layers)


def patches(model: object) -> list[Patch]:
    """The patches in `model`, innermost first; also those a deep copy or an unpickled model brought along."""
    installation = text_base(unwrap(model)).__dict__.get(INSTALLATION_KEY)
    return list(installation.patches) if installation is not None else []


def _build(method: MethodSpec | list[MethodSpec], options: dict[str, Any]) -> list[Method]:
    if not isinstance(method, list):
        return [build_method(method, options)]
    if not method:
        raise AttnPatchError("method is an empty list; name at least one method.")
    if options:
        raise AttnPatchError(
            f"options {sorted(options)} are ambiguous beside a list of methods; give each method its own: "
            "[('sliding', {'window': 512}), ...]."
        )
    return [build_method(one) for one in method]


def _place(
    methods: list[Method], text: TextModel, chosen: Callable[[int], bool]
) -> tuple[list[tuple[Method, list[Site]]], list[dict[str, str]]]:
    placed, skipped = [], []
    for method in methods:
        sites, refused = [], []
        for site in text.sites:
            reason = method.check(site) if chosen(site.layer) else "layer not selected"
            if reason is None:
                sites.append(site)
            else:
                refused.append((site.name, reason))
        refused += list(text.skipped)
        if not sites:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in refused[:4])
            raise UnsupportedModelError(
                f"method {method.name!r} can patch no layer of {text.model_class}, so nothing was changed. {reasons}"
            )
        placed.append((method, sites))
        skipped += [{"method": method.name, "site": name, "reason": reason} for name, reason in refused]
    return placed, skipped


def _refuse_second_key_replacer(placed: list[tuple[Method, list[Site]]], installation: Installation) -> None:
    holders = {
        name: method.name
        for patch in installation.patches
        for method, name, _ in patch.placements()
        if method.replaces_keys
    }
    for method, sites in placed:
        if not method.replaces_keys:
            continue
        for site in sites:
            if site.name in holders:
                raise AttnPatchError(
                    f"method {method.name!r} and {holders[site.name]!r} both replace the keys at layer {site.layer}. "
                    "Remove the first patch, or give the two different layers=."
                )
            holders[site.name] = method.name
