"""Noise on pixels: its schedules, and that each image's noise is its own."""

from __future__ import annotations

import math

import pytest
import torch

from attnpatch.decoding.noise import kept_share, noised


def test_schedules():
    assert kept_share(0) == 1
    assert kept_share(1) == pytest.approx(1 - 1e-4)
    by_hand = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 999) for step in range(500))
    assert kept_share(500) == pytest.approx(by_hand, rel=1e-9)
    sigmoid = math.prod(1 - (1e-5 + (5e-3 - 1e-5) / (1 + math.exp(6 - 12 * step / 999))) for step in range(500))
    assert kept_share(500, "sigmoid") == pytest.approx(sigmoid, rel=1e-9)
    assert kept_share(500) < 0.1 < 0.7 < kept_share(500, "sigmoid")


def test_the_mixture_keeps_the_variance():
    torch.manual_seed(5)
    pixels = torch.randn(2, 3, 64, 64)
    out = noised(pixels, 0.36, 0)
    assert out.std() == pytest.approx(1, abs=0.02)
    assert (out * pixels).mean() == pytest.approx(0.6, abs=0.02)
    assert torch.equal(noised(pixels, 0.36, 0), out)
    assert not torch.equal(noised(pixels, 0.36, 1), out)
    assert torch.equal(noised(pixels, 1.0, 0), pixels)
    assert noised(pixels.half(), 0.36, 0).dtype == torch.float16


@pytest.mark.parametrize("shape", [(3, 3, 7, 7), (3, 2, 3, 7, 7)])
def test_a_batch_is_noised_as_its_images_alone(shape):
    torch.manual_seed(0)
    pixels = torch.randn(shape)
    together = noised(pixels, 0.5, 3)
    for number in range(len(pixels)):
        assert torch.equal(together[number : number + 1], noised(pixels[number : number + 1], 0.5, 3))


def test_a_longer_group_does_not_change_the_noise_of_its_first_images():
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 3, 5, 5)
    assert torch.equal(noised(pixels, 0.5, 0)[:, :2], noised(pixels[:, :2], 0.5, 0))


def test_patches_belong_to_images_and_frames_of_a_picture_are_alike():
    torch.manual_seed(0)
    picture = torch.randn(6, 3, 1, 4).expand(-1, -1, 2, -1).reshape(6, -1)
    pixels = torch.cat([picture, picture[:4]])
    out = noised(pixels, 0.5, 0, patches=[6, 4], frames=2)
    assert torch.equal(out[6:], noised(pixels[6:], 0.5, 0, patches=[4], frames=2))
    frames = out.view(10, 3, 2, 4)
    assert torch.equal(frames[:, :, 0], frames[:, :, 1])
    video = noised(pixels, 0.5, 0, patches=[6, 4]).view(10, 3, 2, 4)
    assert not torch.equal(video[:, :, 0], video[:, :, 1])


def test_fillers_between_images_stay_empty():
    pixels = torch.ones(2, 2, 3, 4, 4)
    pixels[1, 1] = 0
    out = noised(pixels, 0.5, 0)
    assert not bool(out[1, 1].any())
    assert bool(out[1, 0].any())
