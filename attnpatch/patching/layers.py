"""Which layers a patch covers: "all", indices, slices, text or a callable."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attnpatch.patching.errors import AttnPatchError

LayerSpec = str | int | slice | Iterable[int | slice] | Callable[[int], bool]
_HELP = 'Allowed: "all", an index, a slice, a list of those, text such as "0,4:8,-1", or a callable(layer) -> bool.'


def select_layers(layers: LayerSpec | None, count: int) -> Callable[[int], bool]:
    """A predicate over layer indices `0..count-1`.

    Raises:
        AttnPatchError: an index that does not exist, or a selection of nothing.
        TypeError: something that selects no layers.
    """
    if layers is None or (isinstance(layers, str) and layers == "all"):
        return lambda layer: True
    if isinstance(layers, str):
        layers = _parse(layers)
    if callable(layers):
        chosen = {layer for layer in range(count) if layers(layer)}
    else:
        items = layers if isinstance(layers, Iterable) else [layers]
        chosen = set()
        for item in items:
            chosen |= _indices(item, count)
    if not chosen:
        raise AttnPatchError(f"layers={layers!r} selects none of the {count} layers. {_HELP}")
    return chosen.__contains__


def _indices(item: object, count: int) -> set[int]:
    if isinstance(item, slice):
        return set(range(count)[item])
    if not isinstance(item, int) or isinstance(item, bool):
        raise TypeError(f"layers contains {item!r} of type {type(item).__name__}. {_HELP}")
    if not -count <= item < count:
        raise AttnPatchError(f"layer {item} does not exist: the model has layers 0..{count - 1} (or -{count}..-1).")
    return {item % count}


def _parse(text: str) -> list[int | slice]:
    items: list[int | slice] = []
    for part in text.split(","):
        try:
            numbers = [int(number) if number.strip() else None for number in part.split(":")]
        except ValueError:
            raise AttnPatchError(f"layers={text!r}: {part.strip()!r} is no index or slice. {_HELP}") from None
        if len(numbers) > 3 or (len(numbers) == 1 and numbers[0] is None):
            raise AttnPatchError(f"layers={text!r}: {part.strip()!r} is no index or slice. {_HELP}")
        items.append(slice(*numbers) if len(numbers) > 1 else numbers[0])
    return items
