"""Independent logistics with a mean and a scale for every sub-pixel from the decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from rrvqlib.likelihoods.base import (
    Channel,
    Likelihood,
    log_bin_mass,
    logistic_noise,
    reals_to_pixels,
)
from rrvqlib.likelihoods.mixture import GAIN, bounded_log_scale
from rrvqlib.settings.likelihoods import PixelLogisticSettings


class PixelLogistic(Likelihood):
    """As `EdgeLogistic`, but the decoder outputs the scale too: a mixture of one, uncoupled.

    Args:
        channels: c, of the images.
    """

    def __init__(self, channels: int = 3):
        super().__init__()
        self.parameter_channels = 2 * channels

    @classmethod
    def from_settings(cls, settings: PixelLogisticSettings, channels: int) -> PixelLogistic:
        return cls(channels)

    def unpack(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder output (B, 2 c, S, S) -> means and log-scales (B, c, S, S)."""
        means, scales = (GAIN * parameters).chunk(2, dim=1)
        return means, bounded_log_scale(scales)

    def log_masses(self, images: Tensor, parameters: Tensor) -> Tensor:
        means, log_scales = self.unpack(parameters)
        return log_bin_mass(images, means, log_scales, edge_bins=True)

    def mean(self, parameters: Tensor) -> Tensor:
        return self.unpack(parameters)[0].clamp(-0.5, 0.5)

    def sample(self, parameters: Tensor) -> Tensor:
        means, log_scales = self.unpack(parameters)
        return reals_to_pixels(means + log_scales.exp() * logistic_noise(means))

    def next_channel(self, parameters: Tensor, known: Tensor) -> Channel:
        means, log_scales = self.unpack(parameters)
        c = slice(known.shape[1], known.shape[1] + 1)
        return Channel(torch.ones_like(means[:, c]), means[:, c], log_scales[:, c].exp())
