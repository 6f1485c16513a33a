"""The plots: accuracy against measured budget, and where in the context needles are found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.cells import OK, writing
from attnpatch.evaluation.headline import is_detail, task_name
from attnpatch.evaluation.plots_grid import grids, share

if TYPE_CHECKING:
    from attnpatch.evaluation.results import Results

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")  # Okabe and Ito
MARKERS = "osD^vP*"
NEEDLES = ("needle", "needles16")


def draw(results: Results, folder: Path) -> list[Path]:
    """All plots that the results have data for.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "attnpatch[eval]"') from error
    matplotlib.use("Agg", force=False)
    figures = {"accuracy_vs_budget.png": _budget(results), "needle_depth.png": _depth(results)}
    figures |= grids(results.cells)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        if figure is not None:
            with writing(folder / name) as path:
                figure.savefig(path, dpi=130, bbox_inches="tight", format="png")
            written.append(folder / name)
    return written


def _figure(width: float, height: float, rows: int, columns: int):
    # A figure of its own: pyplot's global state belongs to the caller of the Python API.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _budget(results: Results):
    """One panel per task and metric and length: value against measured mean visible keys."""
    shown = {cell["task"]["name"] for cell in results.cells if not cell.get("images")}  # pictures come without budgets
    rows = [row for row in results.rows if row.task in shown and not is_detail(row)]
    rows = [row for row in rows if None not in (row.mean_keys, row.low)]
    panels = list(dict.fromkeys((row.length, row.task, row.metric) for row in rows))
    if not panels:
        return None
    columns = min(5, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = _figure(3.1 * columns, 2.9 * lines + 0.6, lines, columns)
    methods = list(dict.fromkeys(row.method for row in rows if row.method != "stock"))
    several = len({row.length for row in rows}) > 1
    for axis, (length, task, metric) in zip(axes.flat, panels, strict=False):
        own = [row for row in rows if (row.length, row.task, row.metric) == (length, task, metric)]
        for row in own:
            if row.method == "stock":
                axis.axhline(row.value, color="black", linewidth=1, linestyle="--", label="stock (full attention)")
                axis.axhspan(row.low, row.high, color="black", alpha=0.08, linewidth=0)
        for index, method in enumerate(methods):
            points = sorted((row for row in own if row.method == method), key=lambda row: row.mean_keys)
            if points:
                error = [[p.value - p.low for p in points], [p.high - p.value for p in points]]
                axis.errorbar(
                    [p.mean_keys for p in points],
                    [p.value for p in points],
                    yerr=error,
                    label=method,
                    color=COLOURS[index % len(COLOURS)],
                    marker=MARKERS[index % len(MARKERS)],
                    markersize=5,
                    capsize=3,
                    linewidth=1.4,
                )
        title = task_name(task, metric)
        axis.set_title(f"{title}, {length} tokens" if several and length else title, fontsize=10)
        if metric == "accuracy":
            axis.set_ylim(-0.03, 1.05)
        elif max(row.value for row in own) > 4 * min(row.value for row in own) > 0:
            axis.set_yscale("log")
        # From 0, so that the distance between two budgets can be read as a ratio.
        axis.set_xlim(0, 1.15 * max((row.mean_keys for row in own if row.method != "stock"), default=length or 1))
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(handles)), fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("mean visible keys (measured)", fontsize=8)
    figure.suptitle(f"{_model(results)}: accuracy (up is better) and perplexity (down is better)", fontsize=11)
    return figure


def _depth(results: Results):
    """Heatmaps, one per needle task and length: share of answers right, by depth of the needle and method."""
    cells = [
        cell for cell in results.cells if cell["status"] == OK and cell["depth"] and cell["task"]["name"] in NEEDLES
    ]
    panels = list(dict.fromkeys((cell["length"], cell["task"]["name"]) for cell in cells))
    if not panels:
        return None
    groups = list(dict.fromkeys((cell["budget"]["target"], cell["method"]["label"]) for cell in cells))
    groups.sort(key=lambda group: (group[0] is not None, group[0] or 0))
    figure, axes = _figure(1.6 + 5.2 * len(panels), 1.4 + 0.42 * len(groups), 1, len(panels))
    labelled = None
    for axis, (length, task) in zip(axes.flat, panels, strict=True):
        own = [group for group in groups if any(_is(cell, length, task, *group) for cell in cells)]
        grid = [_share([cell for cell in cells if _is(cell, length, task, *group)]) for group in own]
        image = axis.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for y, line in enumerate(grid):
            for x, value in enumerate(line):
                shown = "" if value != value else f"{value:.2f}"
                axis.text(x, y, shown, ha="center", va="center", fontsize=7, color="black" if value > 0.6 else "white")
        axis.set_yticks(range(len(own)), [name if budget is None else f"{name} @{budget}" for budget, name in own])
        at = next(cell["depth"]["at"] for cell in cells if _is(cell, length, task, *own[0]))
        axis.set_xticks(range(len(at)), [f"{depth:.2f}" for depth in at])
        axis.tick_params(labelsize=8)
        axis.set_xlabel("depth of the needle (0 = start of the context, 1 = just before the question)", fontsize=8)
        axis.set_title(f"{task}, {length} tokens", fontsize=10)
        if own == labelled:
            axis.set_yticklabels([])
        labelled = own
    figure.colorbar(image, ax=list(axes.flat), label="accuracy", fraction=0.03, pad=0.01)
    figure.suptitle(f"{_model(results)}: needles found by depth", fontsize=11)
    return figure


def _is(cell: dict[str, Any], length: int, task: str, budget: int | None, method: str) -> bool:
    return (cell["length"], cell["task"]["name"], cell["budget"]["target"], cell["method"]["label"]) == (
        length, task, budget, method,
    )  # fmt: skip


def _share(cells: list[dict[str, Any]]) -> list[float]:
    """Share of answers right per depth, over all seeds; NaN where nothing was asked."""
    return [share(cells, "depth", "correct", index) for index in range(len(cells[0]["depth"]["at"]))]


def _model(results: Results) -> str:
    return str(results.run.get("model", {}).get("id", "model"))
