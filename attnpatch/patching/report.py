"""What a patch did: which sites run patched, which do not and why, how often, on which kernel, at which budget."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from attnpatch.patching.budget import SiteStats, mean_keys

FULL, SPARSE = "full", "sparse"  # the two ways of a method that routes layers


@dataclass(frozen=True)
class SiteReport:
    """One site under one method.

    mean_keys: visible keys per query in prefill; None before any call. cache_bytes_saved: what the cache would hold
    more of this layer without eviction, at its last call. routes: prompts by the way they took, where a method routes.
    """

    method: str
    name: str
    layer: int
    kind: str
    calls: int
    backends: dict[str, int]
    mean_keys: float | None
    decode_mean_keys: float | None
    cache_bytes_saved: int = 0
    routes: dict[str, int] = field(default_factory=dict)


def sparse_share(sites: list[SiteReport]) -> float | None:
    """Share of the routed (prompt, layer) pairs that went to the sparse arm; None where nothing was routed."""
    routed = sum(sum(site.routes.values()) for site in sites)
    return sum(site.routes.get(SPARSE, 0) for site in sites) / routed if routed else None


@dataclass(frozen=True)
class Report:
    """A snapshot of a patch; prints as a table, `to_dict()` is for programs."""

    model: str
    methods: list[dict[str, Any]]
    active: bool
    sites: list[SiteReport]
    skipped: list[dict[str, str]]
    mean_keys: float | None
    decode_mean_keys: float | None
    notes: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Attention calls that ran patched since `apply()` or `reset()`."""
        return sum(site.calls for site in self.sites)

    @property
    def backends(self) -> dict[str, int]:
        """Calls by the kernel backend that answered them."""
        total: Counter[str] = Counter()
        for site in self.sites:
            total.update(site.backends)
        return dict(total)

    @property
    def cache_bytes_saved(self) -> int:
        """Bytes that eviction kept out of the cache, as of each site's last call."""
        return sum(site.cache_bytes_saved for site in self.sites)

    @property
    def omega(self) -> float | None:
        """Share of (prompt, layer) pairs that a routing method sent to its sparse arm; None where nothing routed."""
        return sparse_share(self.sites)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "methods": self.methods,
            "active": self.active,
            "calls": self.calls,
            "backends": self.backends,
            "budget": {"mean_keys": self.mean_keys, "decode_mean_keys": self.decode_mean_keys},
            "cache_bytes_saved": self.cache_bytes_saved,
            "omega": self.omega,
            "sites": [vars(site) for site in self.sites],
            "skipped": self.skipped,
            "notes": self.notes,
        }

    def __rich__(self) -> Table:
        names = " + ".join(method["name"] for method in self.methods)
        title = f"{names} in {self.model}" + ("" if self.active else " (removed)")
        table = Table(title=title, caption="\n".join(self.notes) or None)
        routed = self.omega is not None
        columns = ("layer", "site", "kind", "method", "calls", "backend", "mean keys", "decode keys")
        for column in (*columns, *(["routes"] if routed else [])):
            table.add_column(column, justify="right" if column in ("layer", "calls", "mean keys") else "left")
        for site in self.sites:
            backends = ", ".join(f"{name} x{count}" for name, count in site.backends.items()) or "-"
            table.add_row(
                str(site.layer), site.name, site.kind, site.method, str(site.calls), backends,
                _number(site.mean_keys), _number(site.decode_mean_keys),
                *([", ".join(f"{way} x{count}" for way, count in site.routes.items()) or "-"] if routed else []),
            )  # fmt: skip
        for skip in self.skipped:
            table.add_row("-", skip["site"], "skipped", skip["method"], "-", skip["reason"], "-", "-", style="dim")
        return table

    def __str__(self) -> str:
        console = Console(width=140)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def describe_site(method: str, site, stats: SiteStats) -> SiteReport:
    prefill, decode = mean_keys([stats])
    return SiteReport(
        method, site.name, site.layer, site.kind, stats.calls, dict(stats.backends), prefill, decode,
        stats.cache_bytes_saved, dict(stats.routes),
    )  # fmt: skip
