"""Pictures as diffusion leaves them after some steps of noise."""

from __future__ import annotations

from typing import Literal

import torch

STEPS = 1000
Schedule = Literal["linear", "sigmoid"]


def kept_share(steps: int, schedule: Schedule = "linear") -> float:
    """alpha_bar: the share of a picture's variance that is left after `steps` of 1000 steps of noise.

    linear: beta from 1e-4 to 0.02 (DDPM, arXiv 2006.11239). sigmoid: the schedule in the code released with VCD, beta
    = 1e-5 + (5e-3 - 1e-5) sigmoid(x) with x from -6 to 6, which adds far less noise in its first half.
    """
    if schedule == "linear":
        beta = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    else:
        beta = torch.linspace(-6, 6, STEPS, dtype=torch.float64).sigmoid() * (5e-3 - 1e-5) + 1e-5
    return float((1 - beta[:steps]).prod())


def noised(
    pixels: torch.Tensor,
    kept: float,
    seed: int,
    *,
    patches: list[int] | None = None,
    frames: int = 1,
) -> torch.Tensor:
    """sqrt(kept) pixels + sqrt(1 - kept) noise, in the layout the pixels came in.

    pixels: `[images, C, H, W]`; `[groups, images, C, H, W]`, as crops, or images of one prompt; or `[patches, C *
    frames * P * P]`, with the number of `patches` of each image and the `frames` that a still picture fills. The
    noise of an image follows from the seed, its size and its place in its group alone, so that a batch is noised as
    its prompts alone are. Images that are all zero are fillers between real ones and stay so.
    """
    noise = torch.empty(pixels.shape, dtype=torch.float32)
    if patches is not None:
        start = 0
        for count in patches:
            noise[start : start + count] = _patches(pixels, count, frames, _generator(seed))
            start += count
        real = torch.ones((), dtype=torch.bool)
    elif pixels.ndim == 5:
        generator = _generator(seed)
        for place in range(pixels.shape[1]):
            noise[:, place] = torch.randn(pixels.shape[2:], generator=generator)
        real = pixels.flatten(-3).any(-1)[..., None, None, None].cpu()
    else:
        noise[:] = torch.randn(pixels.shape[1:], generator=_generator(seed))
        real = pixels.flatten(-3).any(-1)[..., None, None, None].cpu()
    noise, real = noise.to(pixels.device), real.to(pixels.device)
    mixed = kept**0.5 * pixels.float() + (1 - kept) ** 0.5 * noise
    return torch.where(real, mixed, pixels).to(pixels.dtype)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)  # on the CPU, so that every device gets the same noise


def _patches(pixels: torch.Tensor, count: int, frames: int, generator: torch.Generator) -> torch.Tensor:
    channels = 3
    one = torch.randn(count, channels, 1, pixels.shape[1] // (channels * frames), generator=generator)
    return one.expand(-1, -1, frames, -1).reshape(count, -1)  # a still picture is the same in all its frames
