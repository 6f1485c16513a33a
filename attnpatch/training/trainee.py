"""What is trained, as one module: a frozen model with a method in it, its routers, an adapter, and the targets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import attnpatch
from attnpatch.methods.flux import Flux
from attnpatch.methods.stochastic import mix
from attnpatch.patching.errors import UnsupportedModelError
from attnpatch.patching.method import build_method
from attnpatch.patching.sites import inspect_model, text_base, unwrap
from attnpatch.training.gates import Gates, temperature
from attnpatch.training.objective import Multipliers, labels_of, weighted_nll
from attnpatch.training.problems import TrainingError
from attnpatch.training.recipe import Recipe
from attnpatch.training.samples import Pack, Sample

SAMPLES = 1_000_000  # more than a step has


@dataclass(frozen=True)
class Share:
    """What a pack needs to know of its step: its first sample's number in it, how many packs, the labels' weight."""

    step: int
    first: int
    packs: int
    weight: float


def shares_of(packs: list[Pack], step: int, *, may_be_empty: bool = False) -> list[Share]:
    """One `Share` per pack. Raises TrainingError where no token is trained on, unless something else is learned."""
    weight = sum(sum(labels_of(pack)[1]) for pack in packs) or float(may_be_empty)
    if not weight:
        raise TrainingError(f"step {step} has no token to train on: all label weights are 0. Use loss_on: all.")
    shares, first = [], 0
    for pack in packs:
        shares.append(Share(step, first, len(packs), weight))
        first += len(pack.samples)
    return shares


class Trainee(nn.Module):
    """Computes the loss of one pack. Summed over the packs of a step it is the loss of the step.

    Attributes:
        patch: the method in the model. flux: the routed method whose routers are trained, or None.
        routers, adapter, multipliers: what is trained; None where it is not.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        model.requires_grad_(False)
        self.adapter = _adapter(model, recipe) if recipe.lora is not None else None
        self.model = model if self.adapter is None else self.adapter
        self.flux, self.routers, self.multipliers = None, None, None
        method = build_method(recipe.method.name, _options(recipe))
        if recipe.router is not None:
            self.flux = _routed(method, model, recipe)
            self.routers = self.flux.routers
            targets = {source.task: source.omega for source in recipe.data.sources}
            self.multipliers = Multipliers(targets, *recipe.router.multiplier_init, recipe.training.seed)
        self.patch = attnpatch.apply(model, method)
        with self.patch.packed([1]):
            pass  # refuses models that would mix the samples of a pack, before anything is trained
        self._gates: Gates | None = None
        self._routed = ExitStack()
        if self.flux is not None:
            # Until the end: layers that are checkpointed ask for their gates again in the backward pass.
            self._routed.enter_context(self.flux.blended(lambda call, logits: self._gates(call, logits)))
        if recipe.training.gradient_checkpointing:
            inner = unwrap(model)
            # The name changed in transformers 5.23.
            enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.base = text_base(unwrap(model))
        self.train()

    def finish(self) -> None:
        """Take the method out of the model. What was trained stays here."""
        self.eval()
        self._routed.close()
        self.patch.remove()

    def train(self, mode: bool = True) -> Trainee:
        """The frozen model stays without dropout; what recomputes activations and the adapter's dropout train."""
        super().train(False)
        self.training = mode
        for name, module in self.model.named_modules():
            if getattr(module, "gradient_checkpointing", False) or ".lora_dropout." in name:
                module.training = mode
        return self

    def forward(self, pack: Pack, share: Share) -> tuple[torch.Tensor, dict[str, Any]]:
        """The pack's part of the step's loss, and what to log of it."""
        settings, device = self.recipe.router, next(self.base.parameters()).device
        tokens = torch.tensor([[token for sample in pack.samples for token in sample.input_ids]], device=device)
        positions = torch.cat([torch.arange(length, device=device) for length in pack.lengths])[None]
        if self.flux is not None:
            tau = temperature(settings, share.step, self.recipe.training.max_steps)
            self._gates = Gates(self.recipe.training.seed, share.step, share.first, tau, settings.gates == "hard")
        gates = self._gates
        # What methods draw follows from the step and the sample, whoever computes the pack and after a resume.
        self.patch.reset(share.step * SAMPLES + share.first)
        torch.manual_seed(mix(self.recipe.training.seed, share.step, share.first))  # an adapter's dropout
        with self.patch.packed(pack.lengths, [sample.prompt_end for sample in pack.samples]):
            hidden = self.base(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state
        nll = weighted_nll(hidden, self._head, tokens, pack)
        loss = nll / share.weight
        found = {"nll": float(nll.detach()), "tokens": pack.tokens, "omega": [], "sampled": [], "tasks": []}
        if gates is not None:
            tasks, omegas = [sample.task for sample in pack.samples], gates.omegas()
            regular = self.multipliers(omegas, tasks) + settings.logit_penalty * gates.squared_logits()
            loss = loss + regular / share.packs
            found |= {
                "regular": float(regular.detach()) / share.packs,
                "omega": gates.decided(),
                "sampled": [float(omega.detach()) for omega in omegas],
                "tasks": tasks,
            }
        if not torch.isfinite(loss):
            found["wrong"] = self._wrong(hidden, tokens, pack)
        return loss, found

    @torch.no_grad()
    def _wrong(self, hidden: torch.Tensor, tokens: torch.Tensor, pack: Pack) -> list[Sample]:
        """The samples whose own loss is not finite; all of them if it is no single one's fault."""
        wrong = [
            sample
            for sample, states, own in zip(
                pack.samples, hidden.split(pack.lengths, 1), tokens.split(pack.lengths, 1), strict=True
            )
            if not torch.isfinite(weighted_nll(states, self._head, own, Pack((sample,))))
        ]
        return wrong or list(pack.samples)

    def _head(self, rows: torch.Tensor) -> torch.Tensor:
        return unwrap(self.model).get_output_embeddings()(rows)

    def parameter_groups(self) -> Iterator[dict[str, Any]]:
        """What AdamW minimises, with learning rate and weight decay."""
        recipe = self.recipe
        for module, settings in ((self.routers, recipe.router), (self.adapter, recipe.lora)):
            if module is not None:
                yield {
                    "params": [parameter for parameter in module.parameters() if parameter.requires_grad],
                    "lr": settings.learning_rate,
                    "weight_decay": settings.weight_decay,
                }

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Everything that training changes, by name, on the CPU."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Put `trained_state` back. Raises TrainingError if it belongs to other parameters."""
        own = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        if own.keys() != state.keys():
            raise TrainingError(
                f"the checkpoint holds {len(state)} parameters, this recipe trains {len(own)}; it is another run's."
            )
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise TrainingError(
                    f"the checkpoint's {name} is {list(state[name].shape)}, this model's {list(parameter.shape)}; it "
                    "is another model's."
                )
            parameter.copy_(state[name])


def _options(recipe: Recipe) -> dict[str, Any]:
    stand_in = {"router": "untrained", "seed": recipe.training.seed} if recipe.router is not None else {}
    return {**recipe.method.options, **stand_in}


def _routed(method: attnpatch.Method, model: nn.Module, recipe: Recipe) -> Flux:
    text = inspect_model(model)
    reasons = {site: method.check(site) for site in text.sites}
    sites = [site for site, reason in reasons.items() if reason is None]
    if not sites:
        why = next(iter(reasons.values()), "it has no attention that can be patched")
        raise UnsupportedModelError(f"method {method.name!r} can patch no layer of {text.model_class}: {why}.")
    settings = recipe.router
    method.start(sites, text.base, reads=settings.features, pool=settings.pool, spread=settings.initializer_range)
    return method


def _adapter(model: nn.Module, recipe: Recipe) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise TrainingError('a lora block needs peft: pip install "attnpatch[train]".') from error
    settings = recipe.lora.model_dump(exclude={"learning_rate", "weight_decay"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))


def check_head(trainee: Trainee) -> None:
    """Raise UnsupportedModelError where logits are more than the output embedding of the last hidden state.

    Chunked logits would otherwise silently train on another loss.
    """
    model, tokens = unwrap(trainee.model), torch.arange(3, 9)[None]
    tokens = tokens.to(next(trainee.base.parameters()).device)
    with torch.no_grad(), trainee.patch.disabled():  # a method may draw anew in each forward
        expected = model(input_ids=tokens, use_cache=False).logits.float()
        found = trainee._head(trainee.base(input_ids=tokens, use_cache=False).last_hidden_state).float()
    # A cap hardly changes the small logits of an untrained model.
    capped = getattr(trainee.base.config, "final_logit_softcapping", None) is not None
    if capped or (expected - found).abs().max() > 1e-2 * expected.abs().max():
        raise UnsupportedModelError(
            f"{type(model).__name__} changes its logits behind the output embedding (softcap or scale), which "
            "training does not follow."
        )
