"""The paper's likelihood: independent logistics around the decoder's means, one scale learnt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rrvqlib.likelihoods.base import (
    Channel,
    Likelihood,
    clip,
    log_bin_mass,
    logistic_noise,
    reals_to_pixels,
)
from rrvqlib.settings.likelihoods import GlobalScaleSettings


class Logistic(Likelihood):
    """Discretised logistics whose scale is learnt, not decoded (Kingma et al. 2016).

    Args:
        channels: c, of the images.
        scale_per_channel: whether each of them has a scale of its own.
    """

    edge_bins = False

    def __init__(self, channels: int = 3, *, scale_per_channel: bool = True):
        super().__init__()
        self.parameter_channels = channels
        # A logistic of this scale has the spread of typical pixels; log_scale 0 would spend the
        # first thousands of steps on finding that out.
        scales = channels if scale_per_channel else 1
        self.log_scale = nn.Parameter(torch.full((scales, 1, 1), -2.0))

    @classmethod
    def from_settings(cls, settings: GlobalScaleSettings, channels: int) -> Logistic:
        return cls(channels, scale_per_channel=settings.scale_per_channel)

    def log_masses(self, images: Tensor, parameters: Tensor) -> Tensor:
        return log_bin_mass(images, clip(parameters), self.log_scale, edge_bins=self.edge_bins)

    def mean(self, parameters: Tensor) -> Tensor:
        return clip(parameters)

    def sample(self, parameters: Tensor) -> Tensor:
        noise = self.log_scale.exp() * logistic_noise(parameters)
        return reals_to_pixels(clip(parameters) + noise)

    def next_channel(self, parameters: Tensor, known: Tensor) -> Channel:
        c = known.shape[1]
        mean = clip(parameters[:, c : c + 1])
        scale = self.log_scale[c % len(self.log_scale)].exp()
        return Channel(torch.ones_like(mean), mean, scale, self.edge_bins)
