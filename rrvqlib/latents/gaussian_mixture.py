"""GM-VQ (Yan et al. 2024): a code chooses a Gaussian, and the decoder sees a draw from it.

The variance of a draw under the posterior grows with the distance from the embedding to its code:
an encoder that is close to a code is sure of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rrvqlib.latents import draws
from rrvqlib.latents.base import Latent, LatentDraw, channels_first, channels_last, of_codes
from rrvqlib.latents.codebook import Codebook, chosen_means
from rrvqlib.latents.divergences import uniform_kl
from rrvqlib.latents.responsibilities import log_relaxed
from rrvqlib.numerics import full_precision
from rrvqlib.settings.latents import GaussianMixtureSettings

# Of a draw around its code, in units of the prior's variance. On a code the distance is 0, the
# density of the draw would be infinite, and the KL too; this keeps it below 3 D nats.
MIN_VARIANCE = 1e-3


class GaussianMixtureLatent(Latent):
    """A code c and a vector z around it: p(c) = 1 / K, p(z given c) = N(mu_c, I).

    The posterior of c is Eq. (2), the softmax of `-|e - mu_c|^2 / 2`, and that of z is
    N(mu_c, s_c^2(x) I) with `s_c^2(x) = |e - mu_c|^2 / 2 D`. The prior's variance is 1: embeddings
    and means choose their unit, as those of Eq. (2) do. z is what the decoder sees; codes are
    reported, but they are not all that it is told.

    Training raises the authors' ALBO, see `aggregate_kl`, which is no bound on log p(x). The score
    is the ELBO.

    Args:
        codebook: K means of size D with fixed variances.
        relaxation: a key of `draws.RELAXATIONS`, while training.
    """

    prior_size = 0

    def __init__(self, codebook: Codebook, relaxation: str = "straight-through"):
        super().__init__()
        self.codebook, self.relaxation = codebook, relaxation
        self.vector_size = self.posterior_size = codebook.embedding_dim

    @classmethod
    def from_settings(
        cls, settings: GaussianMixtureSettings, layer: int, *, learnt_prior: bool
    ) -> GaussianMixtureLatent:
        return cls(Codebook.from_settings(settings, layer, "fixed"), settings.relaxation)

    def log_posterior(self, posterior: Tensor) -> Tensor:
        """Log q(c | x) of embeddings (B, D, H, W): (B, H, W, K) nats."""
        return log_relaxed(channels_last(posterior), self.codebook)

    def draw(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Draw a code, then z around its mean.

        Relaxed draws, those of training, have the KL of the ALBO, averaged over the batch; true
        ones that of the ELBO. Where the relaxed mean lies between codes, so does the draw, with a
        variance by the distance to it.
        """
        with full_precision(posterior.device):
            features, means = channels_last(posterior).float(), self.codebook.means
            D, log_q = self.vector_size, self.log_posterior(posterior)
            every_variance = variance_of(squared_distances(features, means), D)  # (B, H, W, K)
            within = (log_q.exp() * kl_around_mean(every_variance, D)).sum(-1)
            if temperature is not None:
                mean, codes = draws.RELAXATIONS[self.relaxation](log_q, means, temperature)
                kl = aggregate_kl(log_q) + within
            else:
                codes = draws.categorical(log_q)
                mean = chosen_means(means, codes)
                kl = uniform_kl(log_q) + within
            variance = variance_of((features - mean).square().sum(-1), D)  # (B, H, W)
            noise = torch.randn(mean.shape, device=mean.device)
            z = channels_first(mean + variance.sqrt().unsqueeze(-1) * noise)
            if temperature is not None:
                return LatentDraw(z, kl, codes.unsqueeze(-1))
            ratio = -math.log(means.shape[0]) - of_codes(log_q, codes)
            ratio = ratio + (D * variance.log() + (1 - variance) * noise.square().sum(-1)) / 2
            return LatentDraw(z, kl, codes.unsqueeze(-1), ratio.flatten(1).sum(1))

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """z (B, D, H, W) around codes that are equally likely, whatever the temperature.

        Its standard deviation is 1 times the temperature.
        """
        (B, _, H, W), means = prior.shape, self.codebook.means
        codes = torch.randint(len(means), (B, H, W), device=prior.device)
        noise = torch.randn((B, H, W, self.vector_size), device=prior.device)
        return channels_first(chosen_means(means, codes) + temperature * noise)

    def fast_parameters(self) -> Iterable[nn.Parameter]:
        return self.codebook.parameters()

    def start_from(self, posterior: Tensor) -> None:
        self.codebook.kmeans_(channels_last(posterior).flatten(0, 2))


def squared_distances(features: Tensor, means: Tensor) -> Tensor:
    """(..., D), (K, D) -> (..., K), by one matrix product; rounding may leave them below 0."""
    centre = means.detach().mean(0)  # distances do not change, rounding errors shrink
    features, means = features - centre, means - centre
    lengths = features.square().sum(-1, keepdim=True) + means.square().sum(-1)
    return lengths - 2 * features @ means.T


def variance_of(squared_distance: Tensor, dimensions: int) -> Tensor:
    """s_c^2(x) of the squared distance from the embedding to a mean, at least `MIN_VARIANCE`."""
    return (squared_distance / (2 * dimensions)).clamp_min(MIN_VARIANCE)


def kl_around_mean(variance: Tensor, dimensions: int) -> Tensor:
    """KL(N(mu, s^2 I) || N(mu, I)) in nats."""
    return dimensions * (variance - 1 - variance.log()) / 2


def aggregate_kl(log_q: Tensor) -> Tensor:
    """KL(q(c) || p(c)) nats of the *aggregated* posterior: the mean over images and positions.

    Each x may be sure of its code at no cost, if all together use codes equally often. In the mean
    over x, KL(q(c | x) || p) = I(x; c) + KL(q(c) || p) with the mutual information I >= 0, so that
    the ALBO, which has this in place of that, lies above the ELBO by I, and may lie above log p(x).

    Args:
        log_q: (B, H, W, K), of this process's part of a batch.

    Returns:
        (), the same for every position.
    """
    return uniform_kl(log_q.flatten(0, -2).logsumexp(0) - math.log(log_q[..., 0].numel()))
