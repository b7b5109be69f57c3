"""A model and images -> where the bits go: to red, to green given red, to blue given both."""

from __future__ import annotations

import torch
from torch import Tensor

from rrvqlib.models.base import VAE

FLOOR = 1e-30  # of a mass, for its logarithm; below what float64 tells from 0 next to 1


@torch.no_grad()
def bits_of_channels(model: VAE, images: Tensor) -> Tensor:
    """Bits of every sub-pixel given the channels before it, and one draw of all codes.

    The chain rule: over the channels of a pixel they sum to what the likelihood says of it, with
    masses that sum to 1 (Kingma's, whose bins leave some out, are divided by their sum).

    Args:
        model: its likelihood says what a channel is, given those that are known.
        images: uint8 (B, 3, S, S).

    Returns:
        (B, 3, S, S) float64.
    """
    parameters = model.infer(images, None).parameters.double()
    bits = []
    for c in range(3):
        channel = model.likelihood.next_channel(parameters, images[:, :c])
        value = images[:, c].long()
        mass = channel.below(torch.stack((value, value + 1))).diff(dim=0)[0]
        bits.append(-mass.clamp_min(FLOOR).log2())
    return torch.stack(bits, dim=1)
