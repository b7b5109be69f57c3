"""Parameters and an image -> log p(x | z): the discretised logistic likelihood."""

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
    """Kingma's clip, in float32: a mean beyond the outermost bin centres has no use."""
    half_bin = 1 / 512
    return mean.float().clamp(-0.5 + half_bin, 0.5 - half_bin)


def log_bin_mass(images: Tensor, mean: Tensor, log_scale: Tensor, edge_bins: bool) -> Tensor:
    """Log of the logistic distribution's mass in each pixel's bin.

    Args:
        images: pixel values 0..255, any shape.
        mean: in the units of `pixels_to_reals`, broadcastable to images.
        log_scale: log of the logistic's scale in the same units, broadcastable to images.
        edge_bins: False, bins of width 1/256 (Kingma et al. 2016), which leaves out the mass
            below pixel value 0 and above 255; True, the first and last bin reach to infinity
            (Salimans et al. 2017), so that the 256 masses sum to 1.

    Returns:
        Nats, the shape of images.
    """
    inverse_scale = (-log_scale).exp()
    lower = (images.float() / 256 - 0.5 - mean) * inverse_scale
    upper = lower + inverse_scale / 256
    # log(sigmoid(upper) - sigmoid(lower)) without cancellation; it needs no 1e-7 to stay finite.
    # Its first term would be lower - upper: the same for all pixels, so taken from the scale.
    log_width = torch.log(-torch.expm1(-inverse_scale / 256))
    log_mass = log_width - F.softplus(-upper) - F.softplus(lower)
    if edge_bins:
        log_mass = torch.where(images == 0, -F.softplus(-upper), log_mass)
        log_mass = torch.where(images == 255, -F.softplus(lower), log_mass)
    return log_mass


def bin_masses(mean: Tensor, log_scale: Tensor, edge_bins: bool) -> Tensor:
    """The mass of each of the 256 pixel values at once, for coding in float64.

    Args:
        mean, log_scale, edge_bins: as for `log_bin_mass`.

    Returns:
        (..., 256) float64 that sum to 1. Without edge bins they are the exponentials of
        `log_bin_mass` divided by their sum, for a coder has no use for mass that no pixel takes.
    """
    edges = torch.arange(257, dtype=torch.float64, device=mean.device) / 256 - 0.5
    inverse_scale = (-log_scale.double()).exp().unsqueeze(-1)
    below = ((edges - mean.double().unsqueeze(-1)) * inverse_scale).sigmoid()  # (..., 257)
    if edge_bins:
        below[..., 0], below[..., -1] = 0.0, 1.0
    masses = below.diff(dim=-1)
    return masses if edge_bins else masses / masses.sum(-1, keepdim=True)


class DiscretisedLogistic(nn.Module):
    """Independent discretised logistics for all sub-pixels, their scale learnt.

    Args:
        per_channel: one scale for each of the three colour channels, or one for all.
        edge_bins: see `log_bin_mass`.
    """

    def __init__(self, per_channel: bool = True, edge_bins: bool = False):
        super().__init__()
        self.edge_bins = edge_bins
        # A logistic of this scale has the spread of typical pixels; log_scale 0 would spend the
        # first thousands of steps on finding that out.
        self.log_scale = nn.Parameter(torch.full((3 if per_channel else 1, 1, 1), -2.0))

    def log_prob(self, images: Tensor, mean: Tensor) -> Tensor:
        """log p(x | z) of uint8 images (B, 3, H, W) given means of that shape: (B,) nats."""
        with full_precision(images.device):
            log_mass = log_bin_mass(images, clip(mean), self.log_scale, self.edge_bins)
            return log_mass.flatten(1).sum(1)

    def sample(self, mean: Tensor) -> Tensor:
        """uint8 images drawn given the means (B, 3, H, W)."""
        uniform = torch.rand(mean.shape, device=mean.device).clamp(1e-6, 1 - 1e-6)
        return reals_to_pixels(clip(mean) + self.log_scale.exp() * torch.logit(uniform))
