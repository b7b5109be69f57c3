"""One layer of latents between an encoder and a decoder: the models of Appendices B and H."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rrvqlib.configs import ModelConfig
from rrvqlib.decoder import ConvDecoder, MLPDecoder
from rrvqlib.encoder import ConvEncoder, MLPEncoder
from rrvqlib.likelihoods import pixels_to_reals
from rrvqlib.models.base import (
    VAE,
    Inference,
    codebook_latent,
    gaussian_latent,
    nearest_latent,
)


class OneLayerVAE(VAE):
    """Encoder, latents under a fixed prior, decoder."""

    def __init__(self, config: ModelConfig, latent: nn.Module):
        super().__init__(config)
        self.latent = latent
        size, grid, channels, blocks = (
            config.image_size,
            config.pyramid[0],
            config.channels,
            config.blocks,
        )
        inputs, outputs = latent.vector_size, latent.posterior_size
        pixels = self.likelihood.parameter_channels
        if config.network == "mlp":
            self.encoder = MLPEncoder(size, grid, channels, blocks, outputs)
            self.decoder = MLPDecoder(size, grid, channels, blocks, inputs, pixels)
        else:
            scale = config.init_scale
            self.encoder = ConvEncoder(size, grid, channels, blocks, outputs, scale)
            self.decoder = ConvDecoder(size, grid, channels, blocks, inputs, pixels, scale)

    def _no_parameters(self, batch: int) -> Tensor:
        grid = self.config.pyramid[0]
        return torch.empty(batch, 0, grid, grid, device=next(self.parameters()).device)

    def infer(self, images: Tensor, temperature: Tensor | None) -> Inference:
        features = self.encoder(pixels_to_reals(images))
        draw = self.latent(features, self._no_parameters(len(images)), temperature)
        return Inference(self.decoder(draw.vectors), [draw])

    def decode_prior(
        self, batch: int, temperature: float = 1.0, keep: Sequence[Tensor] = ()
    ) -> Tensor:
        vectors = keep[0] if keep else self.latent.sample(self._no_parameters(batch), temperature)
        return self.decoder(vectors)


class VQVAE(OneLayerVAE):
    """Nearest codes, Eq. (1) (Oord et al. 2017)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config, nearest_latent(config))


class RelaxedVQVAE(OneLayerVAE):
    """Relaxed codes, Eq. (2); with learnt variances, Eq. (6)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config, codebook_latent(config, 0, "uniform"))


class SpatialVAE(OneLayerVAE):
    """Gaussian latents laid out in space (App. B)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config, gaussian_latent(config, learnt_prior=False))
