"""`attnpatch inspect MODEL`: which layers can be patched, by which methods, and why not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedModel

from attnpatch.bench.models import load_config, skeleton
from attnpatch.cli.console import JsonFlag, TrustFlag, examples, show, show_json, user_errors
from attnpatch.patching import AttnPatchError, Method, Site, inspect_model, method_names
from attnpatch.patching.apply import introduce
from attnpatch.patching.method import build_method
from attnpatch.patching.sites import TextModel

EXAMPLES = examples(
    "attnpatch inspect sandbox:text",
    "attnpatch inspect Qwen/Qwen3-8B",
    "attnpatch inspect sandbox:text --method sliding:window=64 --json",
)


@user_errors
def inspect_command(
    model: Annotated[
        str,
        typer.Argument(
            help="A Hub id, a folder, sandbox:text or sandbox:vision; only its config is read.", show_default=False
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Only this method, such as sliding:window=64; repeatable. Default: all."),
    ] = None,
    trust_remote_code: TrustFlag = False,
    json: JsonFlag = False,
) -> None:
    """Show a model's attention layers, and which methods apply to them and why not. Needs no weights."""
    config = load_config(model, trust_remote_code=trust_remote_code)
    tree = skeleton(config, trust_remote_code=trust_remote_code)
    text = inspect_model(tree)
    sites = [asdict(site) for site in text.sites]
    skipped = [{"name": name, "reason": reason} for name, reason in text.skipped]
    if method:
        verdicts = [_verdict(_build(given), given, tree, text) for given in method]
    else:
        verdicts = [_default_verdict(name, tree, text) for name in method_names()]
    if json:
        facts = {"model": model, "class": text.model_class, "implementation": text.implementation}
        show_json({**facts, "layers": text.layers, "sites": sites, "skipped": skipped, "methods": verdicts})
        return
    heading = f"{model}: {text.model_class}, {text.layers} layers, attention over {text.implementation}"
    show(Text(heading, style="bold"), _site_table(text.sites, text.skipped), _method_table(verdicts, len(sites)))


def _default_verdict(name: str, tree: PreTrainedModel, text: TextModel) -> dict[str, Any]:
    """A registered method at its defaults; one that cannot run by them is listed with what it asks for."""
    try:
        return _verdict(_build(name), name, tree, text)
    except AttnPatchError as error:
        return {"method": name, "layers": [], "refused": {str(error): [site.layer for site in text.sites]}}


def _verdict(method: Method, label: str, tree: PreTrainedModel, text: TextModel) -> dict[str, Any]:
    """At which layers a method runs; refused layers by reason."""
    introduce([method], tree, text)
    layers: list[int] = []
    refused: dict[str, list[int]] = {}
    for site in text.sites:
        reason = method.check(site)
        (layers if reason is None else refused.setdefault(reason, [])).append(site.layer)
    return {"method": label, "layers": layers, "refused": refused}


def _build(given: str) -> Method:
    from attnpatch.evaluation.methods import parse_method

    spec = parse_method(given)
    return build_method((spec.name, spec.options))


def _site_table(sites: tuple[Site, ...], skipped: tuple[tuple[str, str], ...]) -> Table:
    """Layers that are alike share a row."""
    alike: dict[tuple, list[Site]] = {}
    for site in sites:
        heads = "-" if site.heads is None else f"{site.heads} / {site.kv_heads}"
        window = "-" if site.window is None else f"{site.window:,}"
        pattern = ".".join("*" if part.isdigit() else part for part in site.name.split("."))
        alike.setdefault((pattern, site.kind, window, heads, _flags(site)), []).append(site)
    table = Table(title="attention layers")
    for title in ("layers", "site", "kind", "own window", "heads / key heads", "notes"):
        table.add_column(title)
    for row, members in alike.items():
        table.add_row(ranges([site.layer for site in members]), *row)
    for name, reason in skipped:
        table.add_row("-", name, "skipped", "-", "-", reason, style="dim")
    return table


def _flags(site: Site) -> str:
    flags = (("not causal", not site.causal), ("softcap", site.softcap), ("learned sinks", site.sinks))
    return ", ".join(name for name, raised in flags if raised) or "-"


def _method_table(verdicts: list[dict[str, Any]], total: int) -> Table:
    table = Table(title="methods")
    for title in ("method", "applies to", "not to"):
        table.add_column(title, no_wrap=title == "method")
    for verdict in verdicts:
        layers = verdict["layers"]
        where = "no layer" if not layers else f"{len(layers)} of {total} layers"
        not_to = "\n".join(f"layers {ranges(refused)}: {reason}" for reason, refused in verdict["refused"].items())
        table.add_row(verdict["method"], where, not_to or "-")
    return table


def ranges(numbers: list[int]) -> str:
    """`[0, 1, 2, 5]` as `0-2, 5`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
