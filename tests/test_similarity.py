"""PSNR and SSIM against their definitions."""

import math

import pytest
import torch

from rrvqlib.runs.similarity import psnr, ssim


def pictures(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in ((9, 12), (8, 8))
    ]


def test_psnr_is_that_of_all_pixels_together():
    one, two = pictures(0), pictures(1)
    pairs = zip(one, two, strict=True)
    differences = torch.cat([(a.double() - b.double()).flatten() for a, b in pairs])
    by_hand = 10 * math.log10(255**2 / differences.square().mean().item())
    assert psnr(one, two) == pytest.approx(by_hand, rel=1e-9)


def test_a_step_of_one_in_every_pixel_is_48_decibels():
    grey = [torch.full((3, 8, 8), 100, dtype=torch.uint8)]
    assert psnr(grey, [grey[0] + 1]) == pytest.approx(20 * math.log10(255))


def test_the_same_pictures_are_infinitely_and_wholly_alike():
    assert psnr(pictures(0), pictures(0)) == math.inf
    assert ssim(pictures(0), pictures(0)) == 1.0


def test_ssim_falls_with_noise_and_is_a_mean_over_pictures():
    one = pictures(0)
    near = [(image.int() + 20 * (image > 127)).clamp(0, 255).to(torch.uint8) for image in one]
    each = [ssim([a], [b]) for a, b in zip(one, near, strict=True)]
    assert ssim(one, near) == pytest.approx(sum(each) / 2)
    assert ssim(one, pictures(1)) < ssim(one, near) < 1
