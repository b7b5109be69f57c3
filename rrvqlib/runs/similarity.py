"""Images and what came of them -> how alike they are: PSNR and SSIM, by scikit-image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

WINDOW = 7  # pixels a side that SSIM compares at once; smaller images have none


def psnr(images: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    """Peak signal-to-noise ratio in dB of all pixels together; infinite where nothing differs.

    Args:
        images: uint8 (c, H, W) each, of any sizes.
        others: as many, of the same sizes.
    """
    flat, other = (np.concatenate([i.numpy().ravel() for i in some]) for some in (images, others))
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(flat, other, data_range=255))


def ssim(images: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    """Mean structural similarity of pairs of images, at most 1; arguments as for `psnr`."""
    return float(
        np.mean(
            [
                structural_similarity(one.numpy(), other.numpy(), channel_axis=0, data_range=255)
                for one, other in zip(images, others, strict=True)
            ]
        )
    )
