"""A finished model, frozen, and a prior of its codes learnt afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rrvqlib.latents.base import DiscreteLatent, Latent
from rrvqlib.likelihoods.base import Likelihood
from rrvqlib.models.base import VAE, Inference, only
from rrvqlib.models.code_priors import CodePrior
from rrvqlib.settings.model import ModelSettings
from rrvqlib.settings.second_stages import SECOND_STAGES


class TwoStageVAE(VAE):
    """The first stage's encoder, codes and decoder under the prior of a second stage.

    Its ELBO is the first stage's with log p(z) in place of the uniform prior's, so that both
    stages are scored alike. Training moves the prior alone, on codes drawn afresh.

    Args:
        settings: of the whole.
        first: the first stage, which is frozen.
    """

    def __init__(self, settings: ModelSettings, first: VAE):
        super().__init__(settings)
        self.first = first.requires_grad_(requires_grad=False)
        stage = settings.second_stage
        kind = SECOND_STAGES[stage.kind].load()
        self.code_prior: CodePrior = kind(settings, stage)
        self.train(self.training)

    @property
    def likelihood(self) -> Likelihood:
        """Of the first stage."""
        return self.first.likelihood

    @property
    def latents(self) -> list[Latent]:
        return [*self.first.latents, *self.code_prior.latents]

    @property
    def trainable(self) -> nn.Module:
        """The prior."""
        return self.code_prior

    def stage_for(self, settings: ModelSettings) -> VAE:
        return self if settings == self.settings else self.first

    def train(self, mode: bool = True) -> TwoStageVAE:  # noqa: FBT001, FBT002 (as torch has it)
        """As ever, but the first stage stays as in evaluation: its moving averages rest."""
        super().train(mode)
        self.first.eval()
        return self

    def infer(
        self, images: Tensor, temperature: Tensor | None, labels: Tensor | None = None
    ) -> Inference:
        first = self.infer_first(images)
        latents = only(DiscreteLatent, self.first.latents)
        return Inference(first.parameters, self.code_prior(first.draws, latents, temperature))

    @torch.no_grad()
    def infer_first(self, images: Tensor) -> Inference:
        """The first stage's draws, never relaxed."""
        return self.first.infer(images, None)

    def decode_prior(
        self,
        batch: int,
        temperature: float = 1.0,
        keep: Sequence[Tensor] = (),
        labels: Tensor | None = None,
    ) -> Tensor:
        latents = only(DiscreteLatent, self.first.latents)
        own = only(DiscreteLatent, self.latents)
        topmost = own[len(own) - len(keep) :]
        kept = [latent.codes_of(v) for latent, v in zip(topmost, keep, strict=True)]
        codes = self.code_prior.sample(batch, latents, temperature, kept)
        vectors = [latent.lookup(z) for latent, z in zip(latents, codes, strict=True)]
        return self.first.decode_prior(batch, temperature, vectors)

    def fit_codebooks(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.code_prior.fit_codebooks(self.infer_first(images).draws)
