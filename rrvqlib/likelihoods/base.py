"""What every likelihood of 8-bit pixels shares: the interface, and the logistic's mass in a bin.

A new kind is a file of this package with a subclass of `Likelihood`, and in
`rrvqlib/settings/likelihoods.py` a class of settings and a line of the registry `LIKELIHOODS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrvqlib.numerics import full_precision


def pixels_to_reals(images: Tensor) -> Tensor:
    """uint8 -> float32 in (-1/2, 1/2): the centre of each of 256 bins of width 1/256."""
    return (images.float() + 0.5) / 256 - 0.5


def reals_to_pixels(reals: Tensor) -> Tensor:
    """The inverse of `pixels_to_reals`; values outside go to the nearest pixel value."""
    return ((reals + 0.5) * 256).floor().clamp(0, 255).to(torch.uint8)


def clip(mean: Tensor) -> Tensor:
    """Kingma's clip: a mean beyond the outermost bin centres has no use."""
    half_bin = 1 / 512
    return mean.clamp(-0.5 + half_bin, 0.5 - half_bin)


def log_bin_mass(images: Tensor, mean: Tensor, log_scale: Tensor, *, edge_bins: bool) -> Tensor:
    """Log of the logistic distribution's mass in each pixel's bin.

    Args:
        images: pixel values 0..255, any shape.
        mean: in the units of `pixels_to_reals`, broadcastable to images.
        log_scale: log of the logistic's scale in the same units, broadcastable to images.
        edge_bins: False, bins of width 1/256 (Kingma et al. 2016), which leaves out the mass
            below pixel value 0 and above 255; True, the first and last bin reach to infinity
            (Salimans et al. 2017), so that the 256 masses sum to 1.

    Returns:
        Nats, the shape of images, mean and log_scale broadcast together.
    """
    inverse_scale = (-log_scale).exp()
    lower = (images.to(mean.dtype) / 256 - 0.5 - mean) * inverse_scale
    upper = lower + inverse_scale / 256
    # sigmoid(upper) - sigmoid(lower) is 0 in float32 far from the mean, and to take its logarithm
    # Kingma et al. add 1e-7. With width = upper - lower the difference is the product
    #   (1 - exp(-width)) sigmoid(upper) sigmoid(-lower),
    # whose logarithm is a sum of three finite terms; the first goes by the scale alone.
    log_width = torch.log(-torch.expm1(-inverse_scale / 256))
    above, below = F.softplus(-upper), F.softplus(lower)
    if not edge_bins:
        return log_width - above - below
    # What the two outermost bins hold in addition is what the other bins lack.
    inner = torch.where(images == 0, -above, log_width - above - below)
    return torch.where(images == 255, -below, inner)


def logistic_noise(like: Tensor) -> Tensor:
    """Standard logistic noise of the shape, type and device of `like`.

    Uniform numbers are kept off 0 and 1, whose logits are infinite.
    """
    return torch.logit(torch.rand_like(like).clamp(1e-6, 1 - 1e-6))


@dataclass(frozen=True)
class Channel:
    """One colour channel as a coder sees it: at every pixel a mixture of I logistics.

    Attributes:
        weights, means, scales: (B, I, S, S), or to be broadcast to that; weights sum to 1.
        edge_bins: False where the 256 masses are to be divided by their sum, since a coder has no
            use for mass that no pixel takes.
    """

    weights: Tensor
    means: Tensor
    scales: Tensor
    edge_bins: bool = True

    def below(self, edges: Tensor) -> Tensor:
        """The mass of the pixel values below each edge.

        Args:
            edges: whole numbers 0..256, (E,), or (E, B, S, S) where they differ by pixel.

        Returns:
            (E, B, S, S), rising from 0 at edge 0 to 1 at edge 256.
        """
        edges = edges.view(-1, *edges.shape[1:] or (1, 1, 1)).to(self.means.dtype)
        below = self._unbounded(edges)
        if self.edge_bins:
            return torch.where(edges <= 0, 0.0, torch.where(edges >= 256, 1.0, below))
        low, high = self._unbounded(edges.new_tensor([0.0, 256.0]).view(2, 1, 1, 1))
        return (below - low) / (high - low)

    def _unbounded(self, edges: Tensor) -> Tensor:
        """As `below`, of the logistics themselves."""
        reals = (edges / 256 - 0.5).unsqueeze(2)  # (E, B, 1, S, S)
        return (self.weights * ((reals - self.means) / self.scales).sigmoid()).sum(2)


class Likelihood(nn.Module, ABC):
    """The probability of 8-bit images (B, c, S, S) given what the decoder outputs.

    Attributes:
        parameter_channels: C, channels of the decoder's output (B, C, S, S).
    """

    parameter_channels: int

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Any, channels: int) -> Likelihood:
        """The likelihood that settings of this kind describe, of images of c = 3 or 1 channels."""

    def fast_parameters(self) -> Iterable[nn.Parameter]:
        """Those that learn at the codebooks' rate: all that the likelihood has of its own."""
        return self.parameters()

    def log_prob(self, images: Tensor, parameters: Tensor) -> Tensor:
        """log p(x | z) of uint8 images (B, c, S, S): (B,) nats."""
        with full_precision(images.device):
            # A bfloat16 near 1/2 is half a bin wide.
            precise = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
            return self.log_masses(images, precise).flatten(1).sum(1)

    @abstractmethod
    def log_masses(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Nats of each pixel, (B, S, S), or of each sub-pixel, (B, c, S, S)."""

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """The image that one shows: (B, c, S, S), in the units of `pixels_to_reals`."""

    @abstractmethod
    def sample(self, parameters: Tensor) -> Tensor:
        """uint8 images (B, c, S, S) drawn given the parameters."""

    @abstractmethod
    def next_channel(self, parameters: Tensor, known: Tensor) -> Channel:
        """What the first channel that is not yet known is, given those that are.

        Args:
            parameters: (B, C, S, S), of the precision in which to compute.
            known: uint8 (B, n, S, S), the first n of red, green and blue; n is 0, 1 or 2.
        """
