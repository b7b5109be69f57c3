"""The hierarchical VAE of Section 3 for any pyramid and any kind of latents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from rrvqlib.latents.base import Latent
from rrvqlib.likelihoods.base import pixels_to_reals
from rrvqlib.models.base import VAE, Inference, build_latent, build_likelihood
from rrvqlib.models.top_down import TopDown, TopDownLayer
from rrvqlib.nets.encoder import BottomUp
from rrvqlib.settings.model import ModelSettings


class HierarchicalVAE(VAE):
    """L layers of latents, Eq. (3)-(5) and Fig. C.3."""

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.likelihood = build_likelihood(settings)
        C, scale, pyramid = settings.channels, settings.init_scale, settings.pyramid
        self.encoder = BottomUp(
            settings.image_channels, settings.image_size, pyramid, C, settings.blocks, scale
        )
        grids = (*pyramid, pyramid[-1])  # the learnt vector has the top's grid
        layers = []
        for index, (grid, above) in enumerate(pairwise(grids)):
            is_top = index == settings.layers - 1
            learnt_prior = not (is_top and settings.top_prior == "uniform")
            layers.append(
                TopDownLayer(
                    build_latent(settings, index, learnt_prior=learnt_prior),
                    C,
                    grid // above,
                    settings.blocks,
                    settings.ladder_blocks,
                    settings.decoder_input,
                    scale,
                )
            )
        outputs = self.likelihood.parameter_channels
        self.decoder = TopDown(
            layers, settings.image_size, pyramid, C, outputs, scale, settings.classes
        )

    @property
    def layers(self) -> list[TopDownLayer]:
        """l = 1 first."""
        return cast(list[TopDownLayer], list(self.decoder.layers))

    @property
    def latents(self) -> list[Latent]:
        return [layer.latent for layer in self.layers]

    # Four walks through the same layers, top first. They differ in where a layer's code vectors
    # come from: the posterior, the prior or the caller; the last sets the codebook before it draws.

    def infer(
        self, images: Tensor, temperature: Tensor | None, labels: Tensor | None = None
    ) -> Inference:
        features = self.encoder(pixels_to_reals(images))  # l = 1 first
        state, draws = self.decoder.top(len(images), labels), []
        for layer, feature in zip(reversed(self.layers), reversed(features), strict=True):
            state, draw = layer(feature, state, temperature)
            draws.append(draw)
        return Inference(self.decoder.head(state), draws[::-1])

    def decode_prior(
        self,
        batch: int,
        temperature: float = 1.0,
        keep: Sequence[Tensor] = (),
        labels: Tensor | None = None,
    ) -> Tensor:
        state, kept = self.decoder.top(batch, labels), list(keep)
        for layer in reversed(self.layers):
            prior = layer.prior(state)
            vectors = kept.pop() if kept else layer.latent.sample(prior, temperature)
            state = layer.decode(state, vectors)
        return self.decoder.head(state)

    def decode(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Code vectors (B, D, H, W) of all layers, l = 1 first -> the likelihood's parameters."""
        state = self.decoder.top(len(vectors[0]), labels)
        for layer, vector in zip(reversed(self.layers), reversed(vectors), strict=True):
            state = layer.decode(state, vector)
        return self.decoder.head(state)

    def fit_codebooks(self, images: Tensor, labels: Tensor | None = None) -> None:
        features = self.encoder(pixels_to_reals(images))
        state, one = self.decoder.top(len(images), labels), torch.ones((), device=images.device)
        for layer, feature in zip(reversed(self.layers), reversed(features), strict=True):
            layer.latent.start_from(layer.posterior(feature, state))
            state, _ = layer(feature, state, one)
