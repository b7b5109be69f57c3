"""The VQ-VAE's codes (Oord et al. 2017): the nearest one, a uniform prior, Eq. (1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rrvqlib.latents.base import LatentDraw, channels_first, channels_last
from rrvqlib.latents.codebook import Codebook, CodebookLatent, chosen_means, nearest_codes
from rrvqlib.latents.codebook_average import CodebookAverage
from rrvqlib.latents.responsibilities import log_nearest
from rrvqlib.numerics import full_precision
from rrvqlib.settings.latents import NearestSettings


class NearestLatent(CodebookLatent):
    """The VQ-VAE's latents: nearest code, uniform prior, straight-through gradient, Eq. (1).

    Args:
        codebook: K codes of size D with fixed variances.
        update: `loss`, codes are drawn to their features by a loss; `ema`, by moving averages.
        commitment: weight beta of the loss that draws features to their codes.
        decay, dead_code_threshold: see `CodebookAverage`.
    """

    prior_size = 0

    def __init__(
        self,
        codebook: Codebook,
        update: str = "ema",
        commitment: float = 0.25,
        decay: float = 0.99,
        dead_code_threshold: float = 0.1,
    ):
        super().__init__(codebook)
        self.update, self.commitment = update, commitment
        self.average = CodebookAverage(codebook, decay, dead_code_threshold, learn=update == "ema")

    @classmethod
    def from_settings(
        cls, settings: NearestSettings, layer: int, *, learnt_prior: bool
    ) -> NearestLatent:
        codebook = Codebook.from_settings(settings, layer, "fixed")
        return cls(
            codebook,
            settings.codebook_update,
            settings.commitment,
            settings.codebook_decay,
            settings.dead_code_threshold,
        )

    def log_posterior(self, posterior: Tensor) -> Tensor:
        """Features (B, D, H, W) -> (B, H, W, 1, K): 0 at the nearest code, -inf elsewhere."""
        return log_nearest(channels_last(posterior), self.codebook).unsqueeze(-2)

    def log_prior(self, prior: Tensor) -> Tensor:
        """Uniform: (B, 0, H, W) -> (B, H, W, 1, K) nats."""
        return self.uniform(prior)

    def draw(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Quantise the features (B, D, H, W); averages move in training alone, with a temperature.

        Beyond that `temperature` plays no part, and `prior` none at all.
        """
        with full_precision(posterior.device):
            features = channels_last(posterior).float().contiguous()  # (B, H, W, D)
            codes = nearest_codes(features, self.codebook.means)
            vectors = chosen_means(self.codebook.means, codes)
            vq_loss = self.commitment * squared_distance(features, vectors.detach())
            if self.update == "loss":
                vq_loss = vq_loss + squared_distance(vectors, features.detach())
            if self.training and temperature is not None:
                self.average.update(self.codebook, features.detach().flatten(0, 2), codes.flatten())
            passed = vectors.detach() + (features - features.detach())  # exactly a code
            # A one-hot posterior against a uniform prior: log K nats for every variable.
            kl = torch.full(codes.shape, math.log(self.values), device=codes.device)
            ratio = -kl.flatten(1).sum(1)
            return LatentDraw(channels_first(passed), kl, codes.unsqueeze(-1), ratio, vq_loss)

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """Code vectors (B, D, H, W) drawn uniformly, at any temperature."""
        B, _, H, W = prior.shape
        return self.lookup(torch.randint(self.values, (B, H, W, 1), device=prior.device))

    def start_from(self, posterior: Tensor) -> None:
        super().start_from(posterior)
        self.average.reset(self.codebook)  # or it would pull the codes back


def squared_distance(one: Tensor, other: Tensor) -> Tensor:
    """Summed over all but images: two (B, H, W, D) -> (B,)."""
    return F.mse_loss(one, other, reduction="none").flatten(1).sum(1)
