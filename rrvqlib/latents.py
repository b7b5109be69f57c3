"""What a posterior and a prior say of one layer -> a sample of it and its KL.

Kinds of latent variables with one interface, so that one skeleton carries them all:
`CodebookLatent` (relaxed VQ and RRVQ), `StochasticallyQuantizedLatent` (SQ-VAE), `NearestLatent`
(VQ-VAE), `GaussianLatent` (Spatial-VAE).
Networks speak in maps (B, C, H, W); the formulas want the channels last. A prior without
parameters (uniform, or standard normal) is a map of no channels, (B, 0, H, W).
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrvqlib import prior as priors
from rrvqlib import sampling
from rrvqlib.elbo import categorical_kl, gaussian_kl
from rrvqlib.embeddings import Codebook, CodebookAverage, nearest_codes
from rrvqlib.numerics import full_precision
from rrvqlib.responsibilities import log_responsibilities


@dataclass(frozen=True)
class LatentDraw:
    """One layer, drawn from its posterior.

    Attributes:
        vectors: (B, D, H, W), what the decoder sees.
        kl: (B, H, W) nats.
        codes: int64 (B, H, W), or None for Gaussians.
        log_ratio: (B,) nats, log p - log q of the draw; None for relaxed draws.
        penalty: (B,) nats, or None; see `ElboTerms`.
        prior_entropy: (B, H, W) nats, of p(z_l | above); None for relaxed draws and where no codes
            have a prior of this kind.
    """

    vectors: Tensor
    kl: Tensor
    codes: Tensor | None = None
    log_ratio: Tensor | None = None
    penalty: Tensor | None = None
    prior_entropy: Tensor | None = None


def channels_last(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C)."""
    return maps.permute(0, 2, 3, 1)


def channels_first(vectors: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return vectors.permute(0, 3, 1, 2)


class CodebookLatent(nn.Module):
    """Categorical latents whose posterior is the responsibilities of a codebook.

    Args:
        codebook: K codes of size D, shared by posterior and prior.
        prior: `embedding`, `direct` or `uniform`; see `rrvqlib.prior`.
        sample: `straight-through` or `soft`, while training; evaluation draws categorical
            samples whatever this says.
    """

    def __init__(self, codebook: Codebook, prior: str, sample: str = "straight-through"):
        super().__init__()
        self.codebook, self.prior, self.sample_kind = codebook, prior, sample
        K, self.vector_size = codebook.means.shape
        self.posterior_size = self.vector_size
        self.prior_size = priors.parameters_per_variable(prior, codebook)

    def log_posterior(self, posterior: Tensor) -> Tensor:
        """Embeddings (B, D, H, W) -> (B, H, W, K) nats: Eq. (6)."""
        return log_responsibilities(channels_last(posterior), self.codebook)

    def log_prior(self, prior: Tensor) -> Tensor:
        """Prior parameters (B, prior_size, H, W) -> (B, H, W, K) nats: Eq. (7)."""
        return priors.log_prior(self.prior, channels_last(prior), self.codebook)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, H, W) -> their vectors (B, D, H, W)."""
        return channels_first(F.embedding(codes, self.codebook.means))

    def forward(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Draw from the posterior: relaxed at `temperature`, or truly categorical when None.

        Args:
            posterior: embeddings (B, D, H, W).
            prior: (B, prior_size, H, W).
            temperature: of the relaxation.
        """
        log_q, log_p = self.log_posterior(posterior), self.log_prior(prior)
        kl = categorical_kl(log_q, log_p)
        if temperature is not None:
            soft = self.sample_kind == "soft"
            draw = sampling.soft_vectors if soft else sampling.straight_through_vectors
            vectors, codes = draw(log_q, self.codebook.means, temperature)
            return LatentDraw(channels_first(vectors), kl, codes)
        codes = sampling.categorical(log_q)
        chosen = codes.unsqueeze(-1)
        ratio = log_p.gather(-1, chosen) - log_q.gather(-1, chosen)
        entropy = -(log_p.exp() * log_p).sum(-1)
        ratio = ratio.flatten(1).sum(1)
        return LatentDraw(self.lookup(codes), kl, codes, ratio, prior_entropy=entropy)

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """Code vectors (B, D, H, W) drawn from the prior; temperature 0 gives its mode."""
        return self.lookup(sampling.categorical(self.log_prior(prior), temperature))


class StochasticallyQuantizedLatent(CodebookLatent):
    """SQ-VAE's latents (Takida et al. 2022): one variance s for all codes, and a Gaussian term.

    Beside the code there is a Gaussian variable, N(e, s I) under the posterior and N(E_z, s I)
    under the prior; training pays for their KL, (e - E_z)^2 / 2s summed over D, too. Embeddings
    and codes draw together, which lets s shrink, and a small s makes the choice of codes sharp:
    the "self-annealing". The term is a `penalty`: the decoder sees codes alone, so the ELBO of the
    codes is the score, as for every other model.
    """

    def forward(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """As `CodebookLatent`; relaxed draws, those of training, have the Gaussian term."""
        draw = super().forward(posterior, prior, temperature)
        if temperature is None:
            return draw
        with full_precision(posterior.device):
            distance = (posterior.float() - draw.vectors).square().flatten(1).sum(1)
            penalty = distance * (-self.codebook.log_variances[0]).exp() / 2
        return replace(draw, penalty=penalty)


class NearestLatent(nn.Module):
    """The VQ-VAE's latents: nearest code, uniform prior, straight-through gradient, Eq. (1).

    Args:
        codebook: K codes of size D with fixed variances.
        update: `loss`, codes are drawn to their features by a loss; `ema`, by moving averages.
        commitment: weight beta of the loss that draws features to their codes.
        decay, restart_below: see `CodebookAverage`.
    """

    prior_size = 0

    def __init__(
        self,
        codebook: Codebook,
        update: str,
        commitment: float,
        decay: float,
        restart_below: float,
    ):
        super().__init__()
        self.codebook, self.update, self.commitment = codebook, update, commitment
        self.average = CodebookAverage(codebook, decay, restart_below, learn=update == "ema")
        self.posterior_size = self.vector_size = codebook.means.shape[1]

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, H, W) -> their vectors (B, D, H, W)."""
        return channels_first(F.embedding(codes, self.codebook.means))

    def forward(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Quantise the features (B, D, H, W); `prior` and `temperature` play no part."""
        with full_precision(posterior.device):
            features = channels_last(posterior).float()  # (B, H, W, D)
            codes = nearest_codes(features, self.codebook.means)
            vectors = F.embedding(codes, self.codebook.means)
            penalty = self.commitment * (features - vectors.detach()).square().flatten(1).sum(1)
            if self.update == "loss":
                penalty = penalty + (features.detach() - vectors).square().flatten(1).sum(1)
            if self.training:
                self.average.update(self.codebook, features.detach().flatten(0, 2), codes.flatten())
            passed = vectors.detach() + (features - features.detach())  # exactly a code
            # A one-hot posterior against a uniform prior: log K nats for every variable.
            kl = torch.full(codes.shape, math.log(len(self.codebook.means)), device=codes.device)
            return LatentDraw(channels_first(passed), kl, codes, -kl.flatten(1).sum(1), penalty)

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """Code vectors (B, D, H, W) drawn uniformly, at any temperature."""
        B, _, H, W = prior.shape
        K = len(self.codebook.means)
        return self.lookup(torch.randint(K, (B, H, W), device=prior.device))


class GaussianLatent(nn.Module):
    """Spatial-VAE latents: D independent Gaussians at every position.

    Posterior and prior parameters hold the means and then the log standard deviations; a prior
    without parameters is the standard normal.

    Args:
        size: D.
        learnt_prior: whether networks give the prior's parameters.
    """

    # Bounds of log standard deviations: exp(10) nats would overflow long before they help.
    max_log_std = 5.0

    def __init__(self, size: int, learnt_prior: bool):
        super().__init__()
        self.vector_size = size
        self.posterior_size = 2 * size
        self.prior_size = 2 * size if learnt_prior else 0

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = channels_last(parameters).float().chunk(2, dim=-1)
        return mean, log_std.clamp(-self.max_log_std, self.max_log_std)

    def _prior(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        if self.prior_size:
            return self._split(prior)
        B, _, H, W = prior.shape
        zeros = torch.zeros(B, H, W, self.vector_size, device=prior.device)
        return zeros, zeros

    def forward(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
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
