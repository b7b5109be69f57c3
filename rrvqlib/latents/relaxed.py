"""Codes whose posterior is the responsibilities of a codebook: relaxed VQ, and RRVQ."""

from __future__ import annotations

from torch import Tensor

from rrvqlib.latents import draws, priors
from rrvqlib.latents.base import LatentDraw, channels_first, channels_last, of_codes
from rrvqlib.latents.codebook import Codebook, CodebookLatent
from rrvqlib.latents.divergences import categorical_kl
from rrvqlib.latents.responsibilities import log_responsibilities
from rrvqlib.settings.latents import RelaxedSettings


class RelaxedLatent(CodebookLatent):
    """Categorical latents whose posterior is the responsibilities of a codebook.

    Args:
        codebook: K codes of size D, shared by posterior and prior; or G groups of them.
        prior_kind: `embedding`, `direct` or `uniform`; see `rrvqlib.latents.priors`.
        relaxation: a key of `draws.RELAXATIONS`, while training; evaluation draws categorical
            samples whatever this says.
    """

    def __init__(self, codebook: Codebook, prior_kind: str, relaxation: str = "straight-through"):
        super().__init__(codebook)
        self.prior_kind, self.relaxation = prior_kind, relaxation
        self.prior_size = priors.parameters_per_variable(prior_kind, codebook)

    @classmethod
    def from_settings(
        cls, settings: RelaxedSettings, layer: int, *, learnt_prior: bool
    ) -> RelaxedLatent:
        codebook = Codebook.from_settings(settings, layer, settings.covariance, settings.groups)
        return cls(codebook, settings.prior if learnt_prior else "uniform", settings.relaxation)

    def log_posterior(self, posterior: Tensor) -> Tensor:
        """Embeddings (B, D, H, W) -> (B, H, W, G, K) nats: Eq. (6)."""
        return self.table(log_responsibilities(channels_last(posterior), self.codebook))

    def log_prior(self, prior: Tensor) -> Tensor:
        """Prior parameters (B, prior_size, H, W) -> (B, H, W, G, K) nats: Eq. (7)."""
        return self.table(priors.log_prior(self.prior_kind, channels_last(prior), self.codebook))

    def table(self, log_probabilities: Tensor) -> Tensor:
        """(B, H, W, K) of one group, or (B, H, W, G, K) -> (B, H, W, G, K)."""
        return log_probabilities if self.symbols > 1 else log_probabilities.unsqueeze(-2)

    def draw(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        log_q, log_p = self.log_posterior(posterior), self.log_prior(prior)
        kl = categorical_kl(log_q, log_p).sum(-1)
        if temperature is not None:
            relaxed = draws.RELAXATIONS[self.relaxation]
            vectors, codes = relaxed(log_q, self.codebook.means, temperature)
            return LatentDraw(channels_first(vectors.flatten(-2)), kl, codes)
        codes = draws.categorical(log_q)
        ratio = of_codes(log_p, codes) - of_codes(log_q, codes)
        entropy = -(log_p.exp() * log_p).sum((-2, -1))
        ratio = ratio.flatten(1).sum(1)
        return LatentDraw(self.lookup(codes), kl, codes, ratio, prior_entropy=entropy)

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        return self.lookup(draws.categorical(self.log_prior(prior), temperature))
