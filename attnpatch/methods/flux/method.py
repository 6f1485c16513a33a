"""The method: decides once per prompt and layer, keeps the decision with the prompt's cache, runs what it says.

Source: "Flux Attention", arXiv 2604.07394. A sparse layer never computes the dense branch. The router reads the query
states before RoPE, computed from the layer's own projection for the tokens it reads; layers without a query projection
of their own are routed on their input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from attnpatch.kernels import Window
from attnpatch.methods.flux import plans
from attnpatch.methods.flux.config import SETTINGS, UNTRAINED, FluxConfig
from attnpatch.methods.flux.router import Routers, is_full, saved_routers, shape_for
from attnpatch.patching import apply
from attnpatch.patching.calls import Call
from attnpatch.patching.errors import AttnPatchError, UnsupportedCallError
from attnpatch.patching.method import Method, build_config, method_class, register
from attnpatch.patching.parts import joined_queries, joined_rows
from attnpatch.patching.report import FULL, SPARSE
from attnpatch.patching.saved import Saved, read

WINDOWED = ("sliding", "triangle")  # arms that take `local` and `sink`


@register("flux")
class Flux(Method):
    """output = full attention where the gate of (prompt, layer) is 1, the sparse arm where it is 0."""

    Config = FluxConfig
    summary = "a router per layer sends each prompt to full attention or to a sparse arm"
    paper = "Flux Attention, arXiv 2604.07394"
    neutral = "plan='full', or local >= number of tokens with the sliding arm"
    limits = "the router reads the whole prompt at once, so prefill in chunks is refused; evict works by whole batches"
    neutral_options = {"plan": "full"}
    example_options = {"plan": "random:0.5"}
    small_options = (
        {"plan": "sparse", "local": 4, "sink": 1},
        {"plan": "random:0.5", "local": 3, "sink": 2, "decode": "dense"},
        {"router": UNTRAINED, "local": 4, "sink": 1, "seed": 2},
    )
    replaces_keys = True
    reads_whole_prompt = depends_on_length = True

    def __init__(self, config: FluxConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        router = self.config.router
        self.saved = read(router) if router not in (None, UNTRAINED) else None
        if self.saved is not None and self.saved.method != self.name:
            raise AttnPatchError(f"router={router!r} holds a trained {self.saved.method!r}, not a flux router.")
        trained_with = self.saved.config if self.saved is not None else {}
        missing = {name: trained_with.get(name, value) for name, value in SETTINGS.items()}
        given = {name: value for name in SETTINGS if (value := getattr(self.config, name)) is not None}
        self.config = build_config(type(self), {**self.config.model_dump(), **missing, **given})
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

    @property
    def needs_hidden(self):
        return self.config.router is not None

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
            self.routers = saved_routers(self.saved)
        elif self.routers is None:
            self.start(sites, model, spread=None)
        lacking = [site.layer for site in sites if self.routers and str(site.layer) not in self.routers.layers]
        if lacking:
            raise AttnPatchError(
                f"router={self.config.router!r} has no router for layers {lacking}; select others with layers=."
            )

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
        if "router" in options:
            raise AttnPatchError(
                f"router={options['router']!r} was given beside {saved.location!r}; name one of them."
            )
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
        return joined_rows([(full, inner(call.of_rows(full))), (sparse, self._sparse(call.of_rows(sparse), inner))])

    @contextmanager
    def blended(self, gate: Callable[[Call, torch.Tensor], torch.Tensor]) -> Iterator[Flux]:
        """Compute both branches, for training: gate(call, logits `[B, 2]`) gives the share of full attention `[B]`.

        Raises AttnPatchError for a fixed plan, and before the method was applied.
        """
        if self.routers is None:
            raise AttnPatchError("blended() trains routers; apply flux(router='untrained') or a trained one first.")
        before, self._blend = self._blend, gate
        try:
            yield self
        finally:
            self._blend = before

    def _blended(self, call, inner):
        share = self._blend(call, self.routers.logits(call, self._prompts(call)))
        full, sparse = inner(call)[0], self._sparse(call, inner)[0]
        return torch.lerp(sparse.to(full.dtype), full, share.to(full.dtype).view(-1, 1, 1, 1)), None

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
        if call.forward.ready_mask:
            call.pattern  # noqa: B018 - refuses a mask that does not say which tokens are real
        spans = call.spans or [(0, call.end)] * call.query.shape[0]
        return [(min(start, end), min(stop, end)) for start, stop in spans]

    @property
    def _one_rule(self) -> bool:
        """Do prompt and generated tokens see the same window?"""
        return self.config.sparse == "sliding" and self.config.decode == "sparse" and not self.config.sparse_options

    def _sparse(self, call, inner):
        """The arm for rows of the prompt, `decode` behind it."""
        if self._one_rule:
            return self.arm.attend(call, inner)
        rows = call.query.shape[2]
        cut = min(max(call.forward.prompt_end - call.offset, 0), rows)
        if cut == rows:
            return self.arm.attend(call, inner)
        if cut == 0:
            return self._decode(call, inner)
        prompt, generated = call.of_queries(0, cut), call.of_queries(cut, rows)
        return joined_queries([self.arm.attend(prompt, inner), self._decode(generated, inner)])

    def _decode(self, call, inner):
        rule = Window(self.config.local, self.config.sink, reach=call.pattern.window)
        return inner(call) if self.config.decode == "dense" or call.sees_all(rule) else call.attend(rule)

    def _evict_from(self, call) -> int:
        """Not before the prompt is complete, unless its later rows see no more than a window anyway."""
        return 0 if self._one_rule else call.forward.prompt_end


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
