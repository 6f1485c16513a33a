"""The method: decides once per prompt and layer, keeps the decision with the prompt's cache, runs what it says.

Source: "Flux Attention", arXiv 2604.07394. A sparse layer never computes the dense branch. The router reads the query
states before RoPE, computed from the layer's own projection for the tokens it reads; layers without a query projection
of their own are routed on their input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from attnpatch.kernels import Window
from attnpatch.methods.flux import plans
from attnpatch.methods.flux.router import Routers, Shape, is_full, shape_for
from attnpatch.patching import apply
from attnpatch.patching.calls import Call
from attnpatch.patching.errors import AttnPatchError, UnsupportedCallError
from attnpatch.patching.method import Config, Method, method_class, register
from attnpatch.patching.report import FULL, SPARSE
from attnpatch.patching.saved import Saved, read

UNTRAINED = "untrained"
SETTINGS = {"sparse": "sliding", "sparse_options": {}, "sink": 128, "local": 2048, "decode": "sparse"}
WINDOWED = ("sliding", "triangle")  # arms that take `local` and `sink`


class FluxConfig(Config):
    router: str | None = Field(
        None, description="trained router: a folder, a Hub id, sandbox:flux, or 'untrained' for random weights"
    )
    plan: str | list[int] | None = Field(
        None,
        description="in place of a router: full, sparse, one letter per layer (sfss), or random:0.5, entropy:0.5, "
        "calibrate:0.5 with the share of sparse layers",
    )
    sparse: str | None = Field(
        None, description="the sparse arm, a method that replaces keys. Default: as trained, else sliding"
    )
    sparse_options: dict[str, Any] | None = Field(
        None,
        description="options of the arm; sliding and triangle take local and sink. Default: as trained, or none",
    )
    sink: int | None = Field(
        None, ge=0, description="first tokens a sparse layer always sees. Default: as trained, else 128"
    )
    local: int | None = Field(
        None, ge=1, description="last tokens a sparse layer sees, itself included. Default: as trained, else 2048"
    )
    decode: Literal["sparse", "dense"] | None = Field(
        None, description="what generated tokens see in a sparse layer: sink + local, or all. Default: sparse"
    )
    evict: bool = Field(False, description="layers that are sparse for the whole batch keep sink + local keys only")
    prompts: str | list[list[int]] | None = Field(
        None, description="what entropy and calibrate look at: token ids, or a JSON-lines file of {'input_ids': [...]}"
    )
    seed: int = Field(0, ge=0, description="of random plans and untrained routers")

    @field_validator("plan")
    @classmethod
    def _readable(cls, plan: str | list[int] | None) -> str | list[int] | None:
        return None if plan is None else plans.check(plan)

    @model_validator(mode="after")
    def _one_way_to_decide(self) -> FluxConfig:
        if (self.router is None) == (self.plan is None):
            given = "both were" if self.router else "neither was"
            raise ValueError(f"flux takes a trained router= or a fixed plan=, and {given} given. {plans.HELP}")
        kind = self.plan.partition(":")[0] if isinstance(self.plan, str) else None
        if kind in plans.NEEDS_PROMPTS and self.prompts is None:
            raise ValueError(
                f"plan={self.plan!r} ranks layers on a few prompts; give prompts=, token ids or a JSON-lines file"
            )
        if self.evict and self.decode == "dense":
            raise ValueError("evict=True drops keys that decode='dense' would read; use decode='sparse'")
        return self


@register("flux")
class Flux(Method):
    """output = full attention where the gate of (prompt, layer) is 1, the sparse arm where it is 0."""

    Config = FluxConfig
    summary = "a router per layer sends each prompt to full attention or to a sparse arm"
    paper = "Flux Attention, arXiv 2604.07394"
    neutral = "plan='full', or local >= number of tokens with the sliding arm"
    limits = "the router reads the whole prompt at once, so prefill in chunks is refused; evict works by whole batches"
    neutral_options = {"plan": "full"}
    small_options = (
        {"plan": "sparse", "local": 4, "sink": 1},
        {"plan": "random:0.5", "local": 3, "sink": 2, "decode": "dense"},
        {"router": UNTRAINED, "local": 4, "sink": 1, "seed": 2},
    )
    replaces_keys = True
    reads_whole_prompt = depends_on_length = True
    needs_hidden = True

    def __init__(self, config: FluxConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        router = self.config.router
        self.saved = read(router) if router not in (None, UNTRAINED) else None
        if self.saved is not None and self.saved.method != self.name:
            raise AttnPatchError(f"router={router!r} holds a trained {self.saved.method!r}, not a flux router.")
        trained_with = self.saved.config if self.saved is not None else {}
        missing = {name: trained_with.get(name, value) for name, value in SETTINGS.items()}
        given = {name: value for name in SETTINGS if (value := getattr(self.config, name)) is not None}
        self.config = self.config.model_copy(update={**missing, **given})
        self.arm = _arm(self.config)
        self.routers: Routers | None = None
        self.plan: dict[int, bool] = {}
        self.gates: dict[int, list[bool]] = {}
        self._blend: Callable[[Call, torch.Tensor], torch.Tensor] | None = None

    @classmethod
    def draws_at_random(cls, options):
        arm = options.get("sparse") or "sliding"
        random = str(options.get("plan")).startswith("random") or options.get("router") == UNTRAINED
        return random or method_class(arm).draws_at_random(options.get("sparse_options") or {})

    @property
    def evicts(self):
        return self.config.evict

    def check(self, site):
        return super().check(site) or self.arm.check(site)

    def prepare(self, sites, model):
        self.arm.prepare(sites, model)
        if self.config.router is None:
            self.plan = plans.resolve(
                self.config.plan, sites, seed=self.config.seed, scores=lambda kind: self._scores(kind, model, sites)
            )
        elif self.saved is not None:
            self.saved.require(model.config)
            routers = Routers(Shape(**self.saved.details["router"]), self.saved.details["layers"])
            self.saved.fill(routers)
            lacking = [site.layer for site in sites if str(site.layer) not in routers.layers]
            if lacking:
                raise AttnPatchError(
                    f"router={self.config.router!r} has no router for layers {lacking}; select others with layers=."
                )
            self.routers = routers.eval()
        elif self.routers is None:
            self.start(sites, model, spread=None)

    def start(self, sites, model, *, reads: str = "auto", pool: int = 100, spread: float | None = 0.02) -> Routers:
        """Give every site a new router; `spread` as in `Routers.start`. Raises ValueError as `shape_for` does."""
        layers = [site.layer for site in sites]
        self.routers = Routers(shape_for(model, sites, reads, pool), layers).start(self.config.seed, spread)
        return self.routers

    def _scores(self, kind: str, model, sites) -> list[float]:
        prompts = plans.prompts_from(self.config.prompts)
        if kind == "entropy":
            return plans.entropies(model, sites, prompts)
        same = self.config.model_dump(include=set(SETTINGS))
        layers = [site.layer for site in sites]
        return plans.errors(
            model,
            sites,
            prompts,
            lambda sparse: apply(
                model, Flux(plan=[int(i != sparse) for i in range(len(sites))], **same), layers=layers
            ),
        )

    # what is saved

    @property
    def trained(self):
        return self.routers

    def saved_config(self):
        return self.config.model_dump(mode="json", include=set(SETTINGS))

    def saved_details(self):
        layers = [int(layer) for layer in self.routers.layers]
        return {"router": self.routers.shape._asdict(), "layers": layers}

    @classmethod
    def from_saved(cls, saved: Saved, options):
        return cls(router=saved.location, **options)

    # one call

    def attend(self, call, inner):
        if self._blend is not None:
            return self._blended(call, inner)
        gates = self._gates(call)
        full = [row for row, gate in enumerate(gates) if gate]
        if len(full) == len(gates):
            return inner(call)
        if not full:
            output = self._sparse(call, inner)
            if self.config.evict and call.end >= self._evict_from(call):
                call.evict(first=self.config.sink, last=self.config.local)
            return output
        sparse = [row for row, gate in enumerate(gates) if not gate]
        parts = inner(call.of_rows(full)), self._sparse(call.of_rows(sparse), inner)
        back = torch.tensor([*full, *sparse], device=call.query.device).argsort()
        return _joined(parts, dim=0, back=back)

    @contextmanager
    def blended(self, gate: Callable[[Call, torch.Tensor], torch.Tensor]) -> Iterator[Flux]:
        """Compute both branches, for training: gate(call, logits `[B, 2]`) gives the share of full attention `[B]`."""
        before, self._blend = self._blend, gate
        try:
            yield self
        finally:
            self._blend = before

    def _blended(self, call, inner):
        share = self._blend(call, self.routers.logits(call, self._prompts(call)))
        full, sparse = inner(call)[0], self._sparse(call, inner)[0]
        return torch.lerp(sparse, full, share.to(full.dtype).view(-1, 1, 1, 1)), None

    def _gates(self, call) -> list[bool]:
        rows, layer = call.query.shape[0], call.layer
        if self.plan:
            if call.offset == 0:
                self._note(call, [self.plan[layer]] * rows)
            return [self.plan[layer]] * rows
        kept = call.forward.state.setdefault((self.name, id(self)), {})
        if call.offset == 0:
            kept[layer] = is_full(self.routers.logits(call, self._prompts(call)))
            self._note(call, kept[layer])
        elif layer in kept:
            if call.query.shape[2] > 1:
                call.forward.prompt_end  # noqa: B018 - refuses where these tokens may be the rest of the prompt
        else:
            raise UnsupportedCallError(
                f"flux decides at the start of a prompt, and this cache of {call.offset} tokens was begun without it. "
                "Start with a new cache."
            )
        gates = kept[layer]
        if len(gates) != rows:
            if len(set(gates)) > 1:
                raise UnsupportedCallError(
                    f"the cache was begun with {len(gates)} prompts, which flux routes differently, and now has "
                    f"{rows} rows. Repeat the prompts before the first forward, not the cache."
                )
            gates = gates[:1] * rows
        return gates

    def _note(self, call, gates: list[bool]) -> None:
        self.gates[call.layer] = gates
        if call.stats is not None:
            call.stats.routes.update(FULL if gate else SPARSE for gate in gates)

    def _prompts(self, call) -> list[tuple[int, int]]:
        """The real prompt tokens of each row."""
        end = call.forward.prompt_end
        if end > call.end:
            raise UnsupportedCallError(
                f"flux reads the end of the prompt before it decides, and this first piece ends at token {call.end} "
                f"of {end}. Prefill the prompt at once (without prefill_chunk_size), or use a fixed plan=."
            )
        spans = call.spans or [(0, call.end)] * call.query.shape[0]
        return [(min(start, end), min(stop, end)) for start, stop in spans]

    def _sparse(self, call, inner):
        """The arm for rows of the prompt, `decode` behind it."""
        if self.config.sparse == "sliding" and self.config.decode == "sparse" and not self.config.sparse_options:
            return self.arm.attend(call, inner)  # the same rule in both phases
        rows = call.query.shape[2]
        cut = min(max(call.forward.prompt_end - call.offset, 0), rows)
        if cut == rows:
            return self.arm.attend(call, inner)
        if cut == 0:
            return self._decode(call, inner)
        parts = self.arm.attend(call.of_queries(0, cut), inner), self._decode(call.of_queries(cut, rows), inner)
        return _joined(parts, dim=1)

    def _decode(self, call, inner):
        rule = Window(self.config.local, self.config.sink, reach=call.pattern.window)
        return inner(call) if self.config.decode == "dense" or call.sees_all(rule) else call.attend(rule)

    def _evict_from(self, call) -> int:
        """Not before the prompt is complete, unless its later rows see no more than a window anyway."""
        return 0 if self.config.sparse == "sliding" else call.forward.prompt_end


def _arm(config: FluxConfig) -> Method:
    arm = method_class(config.sparse)
    if not arm.replaces_keys or arm.name == Flux.name:
        raise AttnPatchError(
            f"sparse={config.sparse!r} does not replace keys, so it is no sparse arm. Allowed: methods that do, such "
            "as sliding, triangle, xattention, stochastic."
        )
    windowed = {"window": config.local, "sink": config.sink} if config.sparse in WINDOWED else {}
    built = arm(**{**windowed, **config.sparse_options})
    if built.evicts:
        raise AttnPatchError("sparse_options: evict belongs to flux itself; write flux(evict=True).")
    return built


def _joined(parts, dim: int, back: torch.Tensor | None = None):
    """Outputs `[B, Q, H, D]` of two parts of a call along rows (dim 0) or queries (dim 1), weights alike."""
    output, weights = torch.cat([part[0] for part in parts], dim), [part[1] for part in parts]
    joined = None if any(one is None for one in weights) else torch.cat(weights, dim=0 if dim == 0 else 2)
    if back is not None:
        output = output.index_select(0, back)
        joined = None if joined is None else joined.index_select(0, back)
    return output, joined
