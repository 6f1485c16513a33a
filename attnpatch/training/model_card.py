"""The cards of what training leaves: what it is, how it was made, what it measured."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from attnpatch.training.log import LOG_FILE
from attnpatch.training.measure import as_markdown
from attnpatch.training.recipe import Recipe

LINES = 12  # of the training table


def router_card(recipe: Recipe, folder: Path, table: list[dict[str, Any]] | None, name: str | None) -> str:
    """README.md of a trained router."""
    targets = {source.task: source.omega for source in recipe.data.sources}
    use = (
        "import attnpatch\n\n"
        'patch = attnpatch.load(model, "FOLDER_OR_HUB_ID")  # or attnpatch.apply(model, "flux", router=...)\n'
        "print(patch.report())  # which layers went which way"
    )
    text = (
        "A router per layer reads the start and the end of a prompt and sends the layer to full attention or to its "
        "sparse arm, as in Flux Attention (arXiv 2604.07394). The model itself is frozen.\n\n"
        f"```python\n{use}\n```\n\n"
        "Targets (share of sparse layers): "
        + ", ".join(f"{task} {omega}" for task, omega in targets.items())
        + ".\n\n## Training\n\n"
        + _training_table(folder)
    )
    return _card(recipe, name, text, table, tags=["attnpatch", "flux"], library="attnpatch")


def adapter_card(recipe: Recipe, folder: Path, table: list[dict[str, Any]] | None, name: str | None) -> str:
    """README.md of a trained adapter: an ordinary peft adapter."""
    options = ", ".join(f"{key}={value!r}" for key, value in _options(recipe).items())
    use = (
        "from peft import PeftModel\n\n"
        'model = PeftModel.from_pretrained(model, "FOLDER_OR_HUB_ID")  # attnpatch is not needed for this\n\n'
        f"import attnpatch\n\npatch = attnpatch.apply(model, {recipe.method.name!r}, {options})"
    )
    text = (
        f"A LoRA adapter trained with the method `{recipe.method.name}` in the model, to get it used to it.\n\n"
        f"```python\n{use}\n```\n\n## Training\n\n" + _training_table(folder)
    )
    return _card(recipe, name, text, table, tags=["attnpatch", recipe.method.name], library="peft")


def values_of(recipe: Recipe) -> dict[str, Any]:
    """All settings, as YAML types from which `make_recipe` makes the same recipe."""
    values = recipe.model_dump(mode="json")
    # A source takes no key of another kind of source, not even its default.
    values["data"]["sources"] = [one.model_dump(mode="json", exclude_unset=True) for one in recipe.data.sources]
    return values


def public_name(name: str) -> str:
    """A file or folder without the folders of this machine; anything else as it is."""
    path = Path(name).expanduser()
    return path.name if path.exists() else name


def _options(recipe: Recipe) -> dict[str, Any]:
    return {
        key: public_name(value) if isinstance(value, str) else value for key, value in recipe.method.options.items()
    }


def _card(recipe: Recipe, name: str | None, text: str, table, *, tags: list[str], library: str) -> str:
    model = public_name(recipe.model)
    base = [f"base_model: {model}"] if model == recipe.model and not model.startswith("sandbox:") else []
    head = "\n".join(["---", f"library_name: {library}", *base, f"tags: [{', '.join(tags)}]", "---"])
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("torch", "transformers"))
    made = f"`attnpatch train {name}`, {versions}." if name else f"{versions}."
    measured = f"## Measured\n\nScore (share of sparse layers) by task.\n\n{as_markdown(table)}\n\n" if table else ""
    shown = {**values_of(recipe), "model": model}
    shown["method"]["options"] = _options(recipe)
    del shown["training"]["output_dir"]
    for source in shown["data"]["sources"]:
        if "files" in source:
            files = source["files"]
            source["files"] = [Path(one).name for one in ([files] if isinstance(files, str) else files)]
    settings = yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, width=119)
    title = f"# {recipe.method.name} for {model}"
    return f"{head}\n\n{title}\n\n{text}\n\nMade by {made}\n\n{measured}## Recipe\n\n```yaml\n{settings}```\n"


def _training_table(folder: Path) -> str:
    """Some lines of the log: loss, share of sparse layers per task, tokens."""
    from attnpatch.evaluation.tables import markdown_table

    entries = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    if not entries:
        return "No step was logged."
    every = max(1, len(entries) // (LINES - 1))
    shown = entries[::every][: LINES - 1]
    shown += [] if shown[-1] is entries[-1] else [entries[-1]]
    tasks = sorted({task for entry in entries for task in entry.get("omega", {})})
    header = ["step", "nll", *(f"Ω {task}" for task in tasks), "tokens"]
    lines = [
        [
            str(entry["step"]),
            f"{entry['nll']:.4f}",
            *(f"{entry['omega'][task]:.2f}" if task in entry.get("omega", {}) else "-" for task in tasks),
            f"{entry['tokens']:,}",
        ]
        for entry in shown
    ]
    return markdown_table(header, lines)
