"""One layer of codes trained without a relaxation, by several samples an image."""

from abc import abstractmethod

import torch
from torch import Tensor

from rrvqlib import sampling
from rrvqlib.elbo import ElboTerms, categorical_kl
from rrvqlib.likelihoods import pixels_to_reals
from rrvqlib.models.one_layer import RelaxedVQVAE
from rrvqlib.rivals import estimators


class ScoreFunctionVAE(RelaxedVQVAE):
    """A relaxed VQ-VAE's networks and posterior; training draws M codes at every position.

    Scored like every other model; only `forward` with a temperature, the call that training makes,
    differs. The temperature has no effect.
    """

    @abstractmethod
    def objective(self, log_likelihood: Tensor, log_p: Tensor, log_q: Tensor, kl: Tensor) -> Tensor:
        """What training raises, less the KL that `training_loss` takes off: (B,) nats.

        Args:
            log_likelihood, log_p, log_q: (M, B) nats, of the image and of its codes.
            kl: (B,) nats, of posterior and prior.
        """

    def forward(self, images: Tensor, temperature: Tensor | None = None) -> ElboTerms:
        if temperature is None:
            return super().forward(images)
        B, M = len(images), self.config.samples
        features = self.encoder(pixels_to_reals(images))
        log_q = self.latent.log_posterior(features)  # (B, H, W, K)
        log_p = self.latent.log_prior(self._no_parameters(B))
        with torch.no_grad():
            codes = sampling.categorical(log_q.expand(M, *log_q.shape))  # (M, B, H, W)
        mean = self.decoder(self.latent.lookup(codes.flatten(0, 1)))
        log_likelihood = self.likelihood.log_prob(images.repeat(M, 1, 1, 1), mean).view(M, B)

        def of_codes(table: Tensor) -> Tensor:  # (B, H, W, K) -> (M, B)
            chosen = table.expand(M, *table.shape).gather(-1, codes.unsqueeze(-1))
            return chosen.flatten(2).sum(2)

        kl_map = self.kl_map(log_q, log_p)
        kl = kl_map.flatten(1).sum(1)
        return ElboTerms(
            log_likelihood=self.objective(log_likelihood, of_codes(log_p), of_codes(log_q), kl),
            kl_maps=(kl_map,),
            codes=(codes[0],),
        )

    def kl_map(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """(B, H, W, K) twice -> (B, H, W) nats."""
        return categorical_kl(log_q, log_p)


class LeaveOneOutVAE(ScoreFunctionVAE):
    """The ELBO, its KL in closed form, its likelihood's gradient by REINFORCE with leave-one-out.

    The baseline is that of Kool et al. (2019).
    """

    def objective(self, log_likelihood: Tensor, log_p: Tensor, log_q: Tensor, kl: Tensor) -> Tensor:
        score = estimators.leave_one_out(log_likelihood, log_q)
        return log_likelihood.mean(0) + (score - score.detach())


class VIMCOVAE(ScoreFunctionVAE):
    """The importance-weighted bound of M samples (Mnih and Rezende 2016).

    The bound has no separate KL: `kl_maps` report it without a gradient, and what the loss takes
    off is given back here, so that a warm-up of the KL's weight does nothing to it.
    """

    def kl_map(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        return super().kl_map(log_q, log_p).detach()

    def objective(self, log_likelihood: Tensor, log_p: Tensor, log_q: Tensor, kl: Tensor) -> Tensor:
        return estimators.vimco(log_likelihood + log_p - log_q, log_q) + kl
