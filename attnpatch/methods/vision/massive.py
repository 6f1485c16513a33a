"""Massive activations: the few dimensions of the residual stream in which attention sinks stand out.

Sources: "Massive Activations in Large Language Models", arXiv 2402.17762; "See What You Are Told", arXiv 2503.03321.
The procedure that finds the dimensions is our own: neither paper gives one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from attnpatch.patching import patches
from attnpatch.patching.sites import inspect_model

TAU = 20.0  # VAR's threshold
MOST_DIMS = 4
ALIKE = 0.9  # cosine to the first token from which on a token counts as a sink like it
_EPSILON = 1e-6
_SEQUENCES, _LENGTH = 4, 32  # random ones, beside the beginning-of-sequence token alone


def spikes(states: torch.Tensor) -> torch.Tensor:
    """`|x_d| / rms(x)` for every dimension, fp32, in the shape of `states` `[..., D]`; at most sqrt(D)."""
    states = states.float()
    return states.abs() * _per_rms(states).unsqueeze(-1)


def phi(states: torch.Tensor, dims: torch.Tensor) -> torch.Tensor:
    """The largest of `spikes(states)` among `dims`, fp32: `[...]` for `states` `[..., D]`."""
    states = states.float()
    return states.index_select(-1, dims).abs().amax(-1) * _per_rms(states)


def _per_rms(states: torch.Tensor) -> torch.Tensor:
    return (states.square().mean(-1) + _EPSILON).rsqrt()


def middle(layers: int) -> range:
    """The middle third of `layers` layers, at least one."""
    return range(layers // 3, max(-(-2 * layers // 3), layers // 3 + 1))


@contextmanager
def residual_stream(model: nn.Module, see: Callable[[int, torch.Tensor], None]) -> Iterator[int]:
    """Inside the block, every run calls `see(layer, states)` with the residual stream `[B, T, D]` entering a layer.

    What leaves the last of L layers comes as layer L. Yields L; the hooks are gone behind the block.
    """
    text = inspect_model(model)
    holder = text.sites[0].name.rsplit(".", 2)[0]  # "layers" of "layers.0.self_attn"
    layers = list(text.base.get_submodule(holder))
    handles = []
    try:
        for number, layer in enumerate(layers):
            handles.append(layer.register_forward_pre_hook(_entering(number, see), with_kwargs=True))
        handles.append(layers[-1].register_forward_hook(_leaving(len(layers), see)))
        yield len(layers)
    finally:
        for handle in handles:
            handle.remove()


def _entering(layer: int, see: Callable[[int, torch.Tensor], None]) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        see(layer, kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    return hook


def _leaving(layer: int, see: Callable[[int, torch.Tensor], None]) -> Callable:
    def hook(module: nn.Module, args: tuple, output: torch.Tensor | tuple) -> None:
        see(layer, output[0] if isinstance(output, tuple) else output)

    return hook


class Strength:
    """How strongly each dimension stands out at sinks: the median over layers of the maximum over sinks."""

    def __init__(self) -> None:
        self.highest: dict[int, torch.Tensor] = {}

    def add(self, layer: int, states: torch.Tensor, sinks: torch.Tensor) -> None:
        """More sinks of a layer: where bool `[B, T]` `sinks` is True in `states` `[B, T, D]`."""
        found = spikes(states) * sinks.unsqueeze(-1)
        found = found.amax((0, 1)).cpu()
        self.highest[layer] = torch.maximum(self.highest.get(layer, found), found)

    @property
    def of_dims(self) -> torch.Tensor:
        """`[D]`, by dimension."""
        return torch.stack(list(self.highest.values())).median(0).values

    def dims(self, tau: float) -> tuple[int, ...]:
        """The dimensions that reach `tau`, the strongest first, at most four."""
        order = self.of_dims.argsort(descending=True)[:MOST_DIMS].tolist()
        return tuple(dim for dim in order if self.of_dims[dim] >= tau)

    def strongest(self) -> str:
        """The strongest dimension, for messages."""
        dim = int(self.of_dims.argmax())
        return f"dimension {dim} reaches {float(self.of_dims[dim]):.1f}"


def like_first(states: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Which states point where the row's first token does (either way), bool `[B, T]`; first: its index `[B]`."""
    rows = torch.arange(states.shape[0], device=states.device)
    anchor = states[rows, first].unsqueeze(1).float()
    return torch.cosine_similarity(states.float(), anchor, dim=-1).abs() > ALIKE


def measure_text_model(base: nn.Module) -> Strength:
    """Run a text model on its beginning-of-sequence token and on random tokens; it is left as it was.

    Sinks are the first token and those that point where it does, in the middle third of the layers.
    """
    found, device = Strength(), base.get_input_embeddings().weight.device
    config = base.config
    tokens = torch.randint(config.vocab_size, (_SEQUENCES, _LENGTH), generator=torch.Generator().manual_seed(0))
    alone = getattr(config, "bos_token_id", None)
    prompts = [tokens]
    if isinstance(alone, int):
        tokens[:, 0] = alone
        prompts.append(torch.tensor([[alone]]))

    def see(layer: int, states: torch.Tensor) -> None:
        if layer in chosen:
            first = torch.zeros(states.shape[0], dtype=torch.long, device=states.device)
            found.add(layer, states, like_first(states, first))

    with ExitStack() as stack:
        for patch in patches(base):
            stack.enter_context(patch.disabled())
        chosen = middle(stack.enter_context(residual_stream(base, see)))
        stack.enter_context(torch.no_grad())
        for prompt in prompts:
            base(input_ids=prompt.to(device), use_cache=False)
    return found


def threshold(size: int) -> float:
    """tau for a hidden state of `size` dimensions: 20, or below 1,024 dimensions the same share of the most there is.

    phi is at most sqrt(size): 64 in LLaVA-1.5-7B, where 20 are 5/16 of it, but 11.3 in a model of 128 dimensions.
    """
    return TAU if size >= 1024 else round(TAU / 64 * size**0.5, 2)
