"""Numbers that describe a set of images."""

from __future__ import annotations

from torch import Tensor


def within_image_share(images: Tensor) -> float:
    """Share of the colour variance of a set of images that lies within images.

    The variance about the mean colour of the set, over all pixels and summed over the channels,
    splits into that of pixels about the mean of their image and that of these means. Constant
    images score 0; images of M independent patches of equal size score 1 - 1/M on average.

    Args:
        images: (N, C, H, W), two images or more; any scale, as the share does not depend on it.

    Raises:
        ValueError: there are fewer than two images, or all pixels have one colour.
    """
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(f"images of shape {tuple(images.shape)}: must be (N, C, H, W), N >= 2")
    pixels = images.double()
    centres = pixels.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
    within = (pixels - centres).square().mean((0, 2, 3)).sum().item()
    between = centres.var(0, correction=0).sum().item()
    if within + between == 0:
        raise ValueError("all pixels have one colour: there is no variance to divide")
    return within / (within + between)
