"""SQ-VAE's codes (Takida et al. 2022): one variance for all of them, and a Gaussian term."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rrvqlib.latents.base import LatentDraw
from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.relaxed import RelaxedLatent
from rrvqlib.numerics import full_precision
from rrvqlib.settings.latents import StochasticSettings


class StochasticLatent(RelaxedLatent):
    """Relaxed codes with one variance s, and a Gaussian term.

    Beside the code there is a Gaussian variable, N(e, s I) under the posterior and N(E_z, s I)
    under the prior; training pays for their KL, (e - E_z)^2 / 2s summed over D, too. Embeddings
    and codes draw together, which lets s shrink, and a small s makes the choice of codes sharp:
    the "self-annealing". The term is a `vq_loss`: the decoder sees codes alone, so the ELBO of the
    codes is the score, as for every other model.
    """

    @classmethod
    def from_settings(
        cls, settings: StochasticSettings, layer: int, *, learnt_prior: bool
    ) -> StochasticLatent:
        codebook = Codebook.from_settings(settings, layer, "shared")
        return cls(codebook, settings.prior if learnt_prior else "uniform", settings.relaxation)

    def draw(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """As `RelaxedLatent`; relaxed draws, those of training, have the Gaussian term."""
        draw = super().draw(posterior, prior, temperature)
        if temperature is None:
            return draw
        with full_precision(posterior.device):
            distance = (posterior.float() - draw.vectors).square().flatten(1).sum(1)
            variance = self.codebook.log_variances
            assert variance is not None, "the codebook is shared, not fixed"
            vq_loss = distance * (-variance[0]).exp() / 2
        return replace(draw, vq_loss=vq_loss)
