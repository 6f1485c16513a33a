"""A picture of where a model looks: the image under its attention, one panel per layer or head."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import torch

from attnpatch.vision.looking import Look, Looks
from attnpatch.vision.maps import Tile, grid_map, region_of

ACROSS = 8  # panels in a row
PANEL = 1.75  # inches
DPI = 130
LETTERS = 15  # of the heading, per inch
_MARKS = {"phi": "sinks (massive activations)", "outliers": "outliers of attention"}


def draw(looks: Looks, file: Path, *, heads: bool = False) -> Path:
    """Write the picture (PNG); returns the file.

    heads: one panel per head of the only layer, instead of one per layer with the mean over its heads.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'attnpatch[eval]'") from error
    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    panels = [_panels(run, looks.layers, heads) for run in looks.runs]  # of each run: (title, shares, sinks)
    count, runs = len(panels[0]), len(panels)
    across = min(ACROSS, count)
    lines = -(-count // across)
    width, height = looks.picture.size
    tall = min(max(height / width, 0.5), 2)
    figure = Figure(figsize=(PANEL * (across + 1.2), (PANEL * tall + 0.3) * lines * runs + 0.9), layout="constrained")
    axes = figure.subplots(lines * runs, across + 1, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line in range(lines):
        for number, run in enumerate(looks.runs):
            row = axes[line * runs + number]
            _picture(row[0], looks, run)
            for column in range(across):
                at = line * across + column
                if at < count:
                    brightest = max(_brightest(one[at], looks.tiles) for one in panels)
                    _panel(row[column + 1], looks, panels[number][at], brightest)
    wide = int(figure.get_figwidth() * LETTERS)
    figure.suptitle("\n".join(fill(line, wide) for line in _heading(looks, heads)), fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI, format="png")
    return file


def _panels(run: Look, layers: list[int], heads: bool) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Title, attention `[tokens]` and sinks `[tokens]` of each panel."""
    if heads:
        return [(f"head {head}", one, run.sinks[0]) for head, one in enumerate(run.attention[0])]
    means = run.attention.mean(1)
    return [(f"layer {layer}", *one) for layer, *one in zip(layers, means, run.sinks, strict=True)]


def _brightest(panel: tuple[str, torch.Tensor, torch.Tensor], tiles: list[Tile]) -> float:
    """The top of a panel's scale: sinks are left out, or nothing else would be seen."""
    _, shares, sinks = panel
    return float(grid_map(shares.masked_fill(sinks, 0), tiles, mass=True).max())


def _picture(axis: Any, looks: Looks, run: Look) -> None:
    axis.imshow(looks.picture)
    axis.set_title(f"{shorten(run.label, 24)}: {shorten(run.token, 16) or '(space)'!s}", fontsize=7)


def _panel(axis: Any, looks: Looks, panel: tuple[str, torch.Tensor, torch.Tensor], brightest: float) -> None:
    title, shares, sinks = panel
    width, height = looks.picture.size
    left, top, right, bottom = region_of(looks.tiles)
    axis.imshow(looks.picture.convert("L"), cmap="gray", vmin=-80, vmax=400)  # pale, so that the heat stands out
    heat = (grid_map(shares, looks.tiles, mass=True) / (brightest or 1)).clamp(max=1).numpy()
    axis.imshow(
        heat, extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5), cmap="inferno", vmin=0, vmax=1,
        alpha=0.25 + 0.6 * heat, interpolation="nearest",
    )  # fmt: skip
    across, down = _centres(looks.tiles, sinks)
    if across:
        axis.scatter(across, down, s=26, facecolors="none", edgecolors="#00c8ff", linewidths=1.1)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    axis.set_title(f"{title}: {float(shares.sum()):.0%}", fontsize=7)


def _centres(tiles: list[Tile], marked: torch.Tensor) -> tuple[list[float], list[float]]:
    """Where the marked tokens are, in pixels."""
    across, down = [], []
    for tile in tiles:
        high, wide = tile.cell
        for row, column in marked[tile.tokens].nonzero().tolist():
            across.append(tile.box[0] + (column + 0.5) * wide - 0.5)
            down.append(tile.box[1] + (row + 0.5) * high - 0.5)
    return across, down


def _heading(looks: Looks, heads: bool) -> tuple[str, str]:
    what = f"heads of layer {looks.layers[0]}" if heads else "layers, mean over heads"
    marks = " / ".join(dict.fromkeys(_MARKS[run.marked] for run in looks.runs))
    return (
        shorten(looks.question, 200),
        f"Where token {looks.step} of the answer looks: {what}. In %: attention to the image. Rings: {marks}. Each "
        "column has a scale of its own, which leaves them out.",
    )
