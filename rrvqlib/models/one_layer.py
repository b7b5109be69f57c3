"""One layer of latents between an encoder and a decoder: the models of Appendices B and H."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rrvqlib.latents.base import Latent
from rrvqlib.likelihoods.base import pixels_to_reals
from rrvqlib.models.base import VAE, Inference, build_latent, build_likelihood
from rrvqlib.nets.decoder import ConvDecoder, MLPDecoder
from rrvqlib.nets.encoder import ConvEncoder, MLPEncoder
from rrvqlib.settings.model import ModelSettings


class OneLayerVAE(VAE):
    """Encoder, latents under a fixed prior, decoder.

    With the latents `nearest` it is a VQ-VAE, with `relaxed` a relaxed VQ-VAE, with `gaussian` a
    Spatial-VAE.
    """

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.likelihood = build_likelihood(settings)
        self.latent = build_latent(settings, 0, learnt_prior=False)
        image, size, grid = settings.image_channels, settings.image_size, settings.pyramid[0]
        channels, blocks = settings.channels, settings.blocks
        inputs, outputs = self.latent.vector_size, self.latent.posterior_size
        pixels = self.likelihood.parameter_channels
        if settings.network == "mlp":
            self.encoder = MLPEncoder(image, size, grid, channels, blocks, outputs)
            self.decoder = MLPDecoder(size, grid, channels, blocks, inputs, pixels)
        else:
            scale = settings.init_scale
            self.encoder = ConvEncoder(image, size, grid, channels, blocks, outputs, scale)
            self.decoder = ConvDecoder(size, grid, channels, blocks, inputs, pixels, scale)

    @property
    def latents(self) -> list[Latent]:
        return [self.latent]

    def prior(self, batch: int) -> Tensor:
        """The fixed prior's parameters, none: (B, 0, H, W)."""
        grid = self.settings.pyramid[0]
        return torch.empty(batch, 0, grid, grid, device=next(self.parameters()).device)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 images (B, c, S, S) -> parameters of the posterior (B, Q, H, W)."""
        return self.encoder(pixels_to_reals(images))

    def decode(self, vectors: Sequence[Tensor]) -> Tensor:
        """Code vectors (B, D, H, W) of the one layer -> the likelihood's parameters."""
        (vector,) = vectors
        return self.decoder(vector)

    def infer(
        self, images: Tensor, temperature: Tensor | None, labels: Tensor | None = None
    ) -> Inference:
        draw = self.latent.draw(self.encode(images), self.prior(len(images)), temperature)
        return Inference(self.decoder(draw.vectors), [draw])

    def decode_prior(
        self,
        batch: int,
        temperature: float = 1.0,
        keep: Sequence[Tensor] = (),
        labels: Tensor | None = None,
    ) -> Tensor:
        vectors = keep[0] if keep else self.latent.sample(self.prior(batch), temperature)
        return self.decoder(vectors)

    def fit_codebooks(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.latent.start_from(self.encode(images))
