"""Mixtures of logistics whose channels know of each other, as in PixelCNN++, NVAE and VDVAE."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rrvqlib.latents.draws import gumbel_noise
from rrvqlib.likelihoods.base import (
    Channel,
    Likelihood,
    log_bin_mass,
    logistic_noise,
    pixels_to_reals,
    reals_to_pixels,
)
from rrvqlib.settings.likelihoods import MixtureSettings

GAIN = 3.0  # the decoder's last convolution starts with a standard deviation of 0.1
SPREAD = 0.3  # the first means lie evenly between minus and plus this
LOG_SCALES = -8.0, 1.0  # from a twelfth of a bin to more than the range of pixels
FIRST_LOG_SCALE = -2.0


def bounded_log_scale(raw: Tensor) -> Tensor:
    """Reals -> log-scales within `LOG_SCALES`; around 0 it is `FIRST_LOG_SCALE` + raw."""
    low, high = LOG_SCALES
    start = (FIRST_LOG_SCALE - low) / (high - low)
    slope = (high - low) * start * (1 - start)
    return low + (high - low) * torch.sigmoid(math.log(start / (1 - start)) + raw / slope)


def coupled(mean: Tensor, coefficients: Tensor, before: Sequence[Tensor]) -> Tensor:
    """The mean of one colour channel, moved by the values of the channels before it.

    Args:
        mean: of red, green or blue, (B, ..., S, S).
        coefficients: (B, 3, ..., S, S), of red in green, of red in blue, of green in blue.
        before: values of the channels before it in the units of `pixels_to_reals`, each to be
            broadcast to the mean: none for red, red's for green, red's and green's for blue.
    """
    first = max(0, len(before) - 1)  # green's coefficient stands before blue's two
    for number, reals in enumerate(before, start=first):
        mean = mean + coefficients[:, number] * reals
    return mean


def means_given(images: Tensor, means: Tensor, coefficients: Tensor) -> Tensor:
    """The components' means, moved by the values of the channels before.

    Args:
        images: uint8 (B, c, S, S), the first c of red, green and blue.
        means: (B, n, I, S, S), of the first n channels; those before the n-th are in images.
        coefficients: (B, 3, I, S, S), of red in green, of red in blue, of green in blue.

    Returns:
        (B, n, I, S, S).
    """
    reals = pixels_to_reals(images).to(means.dtype).unsqueeze(2).unbind(1)  # c of (B, 1, S, S)
    each = [coupled(mean, coefficients, reals[:n]) for n, mean in enumerate(means.unbind(1))]
    return torch.stack(each, dim=1)


class LogisticMixture(Likelihood):
    """Every pixel's colour has a mixture of I logistics (Salimans et al. 2017, Eq. 3).

    A component is chosen for the whole pixel; in it the mean of green moves with red, and that of
    blue with red and green, by coefficients that the decoder outputs too. Grey images have one
    channel, and no coefficients.

    Args:
        components: I.
        channels: c, of the images.
    """

    first_means: Tensor

    def __init__(self, components: int = 5, channels: int = 3):
        super().__init__()
        self.components = components
        # A weight; means and log-scales; a coefficient for each pair of channels.
        self.sizes = 1, channels, channels, channels * (channels - 1) // 2
        self.parameter_channels = sum(self.sizes) * components
        first = torch.linspace(-SPREAD, SPREAD, components) if components > 1 else torch.zeros(1)
        self.register_buffer("first_means", first.view(components, 1, 1), persistent=False)

    @classmethod
    def from_settings(cls, settings: MixtureSettings, channels: int) -> LogisticMixture:
        return cls(settings.components, channels)

    def unpack(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decoder output (B, 10 I, S, S) -> what the components are; (B, 3 I, S, S) of grey images.

        Returns:
            Log-weights (B, I, S, S); means and log-scales (B, c, I, S, S); coefficients
            (B, 3, I, S, S), of red in green, of red in blue, of green in blue, or none.
        """
        raw = GAIN * parameters.unflatten(1, (sum(self.sizes), self.components))
        logits, means, scales, coefficients = raw.split(self.sizes, dim=1)
        return (
            logits.squeeze(1).log_softmax(1),
            self.first_means + means,
            bounded_log_scale(scales),
            coefficients.tanh(),
        )

    def log_masses(self, images: Tensor, parameters: Tensor) -> Tensor:
        log_weights, means, log_scales, coefficients = self.unpack(parameters)
        means = means_given(images, means, coefficients)
        log_mass = log_bin_mass(images.unsqueeze(2), means, log_scales, edge_bins=True)
        return (log_weights + log_mass.sum(1)).logsumexp(1)

    def next_channel(self, parameters: Tensor, known: Tensor) -> Channel:
        log_weights, means, log_scales, coefficients = self.unpack(parameters)
        c = known.shape[1]
        means = means_given(known, means[:, : c + 1], coefficients)
        seen = log_bin_mass(known.unsqueeze(2), means[:, :c], log_scales[:, :c], edge_bins=True)
        weights = (log_weights + seen.sum(1)).softmax(1)
        return Channel(weights, means[:, c], log_scales[:, c].exp())

    def mean(self, parameters: Tensor) -> Tensor:
        log_weights, means, _, coefficients = self.unpack(parameters)
        shown: list[Tensor] = []  # of red, green, blue: each moves the next
        for mean in means.unbind(1):
            shown.append(coupled(mean, coefficients, shown).clamp(-0.5, 0.5))
        return (log_weights.exp().unsqueeze(1) * torch.stack(shown, 1)).sum(2)

    def sample(self, parameters: Tensor) -> Tensor:
        log_weights, means, log_scales, coefficients = self.unpack(parameters)
        noisy = log_weights + gumbel_noise(log_weights)
        chosen = noisy.argmax(1, keepdim=True).unsqueeze(1)  # (B, 1, 1, S, S)

        def of_chosen(values: Tensor) -> Tensor:  # (B, n, I, S, S) -> (B, n, S, S)
            return values.gather(2, chosen.expand(-1, values.shape[1], -1, -1, -1)).squeeze(2)

        means, log_scales, coefficients = map(of_chosen, (means, log_scales, coefficients))
        noise = log_scales.exp() * logistic_noise(means)
        pixels: list[Tensor] = []  # red, green, blue
        for mean, own_noise in zip(means.unbind(1), noise.unbind(1), strict=True):
            reals = [pixels_to_reals(channel) for channel in pixels]
            pixels.append(reals_to_pixels(coupled(mean, coefficients, reals) + own_noise))
        return torch.stack(pixels, 1)
