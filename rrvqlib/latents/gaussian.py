"""The Spatial-VAE's latents: independent Gaussians at every position."""

from __future__ import annotations

import torch
from torch import Tensor

from rrvqlib.latents.base import Latent, LatentDraw, channels_first, channels_last
from rrvqlib.latents.divergences import gaussian_kl
from rrvqlib.numerics import full_precision
from rrvqlib.settings.latents import GaussianSettings


class GaussianLatent(Latent):
    """Spatial-VAE latents: D independent Gaussians at every position.

    Posterior and prior parameters hold the means and then the log standard deviations; a prior
    without parameters is the standard normal.

    Args:
        size: D.
        learnt_prior: whether networks give the prior's parameters.
    """

    # Bounds of log standard deviations: exp(10) nats would overflow long before they help.
    max_log_std = 5.0

    def __init__(self, size: int, *, learnt_prior: bool):
        super().__init__()
        self.vector_size = size
        self.posterior_size = 2 * size
        self.prior_size = 2 * size if learnt_prior else 0

    @classmethod
    def from_settings(
        cls, settings: GaussianSettings, layer: int, *, learnt_prior: bool
    ) -> GaussianLatent:
        return cls(settings.embedding_dim, learnt_prior=learnt_prior)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = channels_last(parameters).float().chunk(2, dim=-1)
        return mean, log_std.clamp(-self.max_log_std, self.max_log_std)

    def _prior(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        if self.prior_size:
            return self._split(prior)
        B, _, H, W = prior.shape
        zeros = torch.zeros(B, H, W, self.vector_size, device=prior.device)
        return zeros, zeros

    def draw(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Draw by reparameterisation; a temperature of None asks for `log_ratio` too.

        Args:
            posterior: (B, 2 D, H, W).
            prior: (B, prior_size, H, W).
            temperature: has no other effect on Gaussians.
        """
        with full_precision(posterior.device):
            mean, log_std = self._split(posterior)
            prior_mean, prior_log_std = self._prior(prior)
            # Not randn_like, whose numbers go by the memory layout: the seed alone decides.
            noise = torch.randn(mean.shape, device=mean.device)
            z = mean + log_std.exp() * noise
            kl = gaussian_kl(mean, log_std, prior_mean, prior_log_std)
            if temperature is not None:
                return LatentDraw(channels_first(z), kl)
            prior_noise = (z - prior_mean) * (-prior_log_std).exp()
            ratio = (noise.square() - prior_noise.square()) / 2 + log_std - prior_log_std
            return LatentDraw(channels_first(z), kl, log_ratio=ratio.flatten(1).sum(1))

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """z (B, D, H, W) drawn from the prior with its standard deviation times `temperature`."""
        mean, log_std = self._prior(prior)
        noise = torch.randn(mean.shape, device=mean.device)
        return channels_first(mean + temperature * log_std.exp() * noise)
