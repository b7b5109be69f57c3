"""A finished model, frozen, and a prior of its codes learnt afterwards."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rrvqlib.configs import ModelConfig
from rrvqlib.embeddings import nearest_codes
from rrvqlib.latents import channels_last
from rrvqlib.models.base import VAE, Inference
from rrvqlib.rivals.code_priors import GreedyPrior, PixelCNNPrior

CODE_PRIORS = {"pixelcnn": PixelCNNPrior, "greedy": GreedyPrior}


class TwoStageVAE(VAE):
    """The first stage's encoder, codebooks and decoder under the prior of a second stage.

    Its ELBO is the first stage's with log p(z) in place of the uniform prior's, so that both
    stages are scored alike. Training moves the prior alone, on codes drawn afresh.
    """

    def __init__(self, config: ModelConfig):
        from rrvqlib.models import build

        nn.Module.__init__(self)  # the likelihood is the first stage's
        self.config = config
        self.first = build(config.first_stage).requires_grad_(False)
        self.code_prior = CODE_PRIORS[config.second_stage](config)
        self.train(self.training)

    @property
    def likelihood(self) -> nn.Module:
        """Of the first stage."""
        return self.first.likelihood

    @property
    def trained(self) -> nn.Module:
        """The prior."""
        return self.code_prior

    def train(self, mode: bool = True) -> "TwoStageVAE":
        """As ever, but the first stage stays as in evaluation: its moving averages rest."""
        super().train(mode)
        self.first.eval()
        return self

    @property
    def _latents(self) -> list[nn.Module]:  # of the first stage, l = 1 first
        return [m for m in self.first.modules() if hasattr(m, "codebook")]

    def infer(self, images: Tensor, temperature: Tensor | None) -> Inference:
        with torch.no_grad():
            inference = self.first.infer(images, None)
        return Inference(
            inference.parameters, self.code_prior(inference.draws, self._latents, temperature)
        )

    def decode_prior(
        self, batch: int, temperature: float = 1.0, keep: Sequence[Tensor] = ()
    ) -> Tensor:
        latents = self._latents
        all_latents = latents + [m for m in self.code_prior.modules() if hasattr(m, "codebook")]
        kept = [
            nearest_codes(channels_last(vectors), latent.codebook.means)
            for vectors, latent in zip(
                keep, all_latents[len(all_latents) - len(keep) :], strict=True
            )
        ]
        codes = self.code_prior.sample(batch, latents, temperature, kept)
        vectors = [latent.lookup(z) for latent, z in zip(latents, codes, strict=True)]
        return self.first.decode_prior(batch, temperature, vectors)
