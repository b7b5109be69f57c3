"""The hierarchical VAE of Section 3 for any pyramid: RRVQ-VAE, its Gaussian twin, its rivals."""

from collections.abc import Sequence

from torch import Tensor, nn

from rrvqlib.configs import ModelConfig
from rrvqlib.decoder import TopDown, TopDownLayer
from rrvqlib.encoder import BottomUp
from rrvqlib.latents import LatentDraw
from rrvqlib.likelihoods import pixels_to_reals
from rrvqlib.models.base import (
    VAE,
    Inference,
    codebook_latent,
    gaussian_latent,
    nearest_latent,
)
from rrvqlib.rivals.binary import BinaryLatent


class HierarchicalVAE(VAE):
    """L layers of latents, Eq. (3)-(5) and Fig. C.3."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.bottom_up = BottomUp(
            config.image_size, config.pyramid, config.channels, config.blocks, config.init_scale
        )
        grids = (*config.pyramid, config.pyramid[-1])  # the learnt vector has the top's grid
        layers = [
            TopDownLayer(
                self._latent(config, index),
                config.channels,
                grid // above,
                config.blocks,
                config.ladder_blocks,
                config.decoder_input,
                config.init_scale,
            )
            for index, (grid, above) in enumerate(zip(grids, grids[1:], strict=False))
        ]
        self.top_down = TopDown(
            layers,
            config.image_size,
            config.pyramid,
            config.channels,
            self.likelihood.parameter_channels,
            config.init_scale,
        )

    @staticmethod
    def _latent(config: ModelConfig, index: int) -> nn.Module:
        uniform = config.top_prior == "uniform" and index == config.layers - 1
        match config.latent:
            case "gaussian":
                return gaussian_latent(config, learnt_prior=not uniform)
            case "binary":
                return BinaryLatent(config.code_size, learnt_prior=not uniform)
            case "nearest":
                return nearest_latent(config, index)
        return codebook_latent(config, index, "uniform" if uniform else config.prior)

    def infer(self, images: Tensor, temperature: Tensor | None) -> Inference:
        features = self.bottom_up(pixels_to_reals(images))
        draws: list[LatentDraw] = []

        def from_posterior(index: int, layer: TopDownLayer, state: Tensor) -> Tensor:
            state, draw = layer(features[index], state, temperature)
            draws.append(draw)
            return state

        parameters = self.top_down.descend(len(images), from_posterior)
        return Inference(parameters, draws[::-1])  # reached top first, kept l = 1 first

    def decode_prior(
        self, batch: int, temperature: float = 1.0, keep: Sequence[Tensor] = ()
    ) -> Tensor:
        first_kept = self.config.layers - len(keep)

        def from_prior(index: int, layer: TopDownLayer, state: Tensor) -> Tensor:
            if index >= first_kept:
                return keep[index - first_kept]
            return layer.latent.sample(layer.prior(state), temperature)

        return self.top_down(batch, from_prior)
