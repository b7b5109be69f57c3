"""The top-down chain of Fig. C.3: layers of latents, and the decoder's state that they share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rrvqlib.latents.base import Latent, LatentDraw
from rrvqlib.nets.convolutions import Projection, ResidualBlock, ResidualStack, conv
from rrvqlib.nets.decoder import head


class TopDownLayer(nn.Module):
    """One layer of the hierarchy: the labelled arrows of Fig. C.3 around its latent variables.

    Args:
        latent: of the layer; see `rrvqlib.latents`.
        channels: of encoder features and decoder states.
        factor: side of this layer's grid over the side of the grid above.
        blocks: residual blocks of dec.
        ladder_blocks: residual blocks inside each ladder and strap; 0 for one convolution.
        decoder_input: `add`, the code joins the decoder's state; `concat`, it joins inside the
            residual block, as in the ResNet VAE.
        init_scale: see `ResidualBlock`.
    """

    def __init__(
        self,
        latent: Latent,
        channels: int,
        factor: int,
        blocks: int,
        ladder_blocks: int,
        decoder_input: str,
        init_scale: float,
    ):
        super().__init__()
        self.latent, self.decoder_input = latent, decoder_input
        posterior, vector = latent.posterior_size, latent.vector_size
        self.qladder = Projection(channels, posterior, ladder_blocks, 1, init_scale)
        self.qstrap = Projection(channels, posterior, ladder_blocks, factor, init_scale)
        self.pstrap = None
        if latent.prior_size:
            prior = latent.prior_size
            self.pstrap = Projection(channels, prior, ladder_blocks, factor, init_scale)
        self.factor = factor
        # The code is a linear function's input here, not an activation's output: no ELU first.
        self.pladder = nn.Sequential(
            conv(vector, channels, 3, 1, init_scale if decoder_input == "add" else 1.0),
            ResidualStack(channels, ladder_blocks, 1, transposed=False, init_scale=init_scale),
        )
        joins = decoder_input == "concat"
        self.dec = ResidualStack(
            channels, blocks - joins, factor, transposed=True, init_scale=init_scale
        )
        self.join = None
        if joins:
            resizes = factor if blocks == 1 else 1
            self.join = ResidualBlock(
                channels, resizes, transposed=True, joined=channels, init_scale=init_scale
            )

    def forward(
        self, features: Tensor, state: Tensor, temperature: Tensor | None
    ) -> tuple[Tensor, LatentDraw]:
        """Draw from the posterior and decode.

        Args:
            features: of the encoder, (B, C, H, W).
            state: of the layer above, (B, C, h, w).
            temperature: of relaxed samples; None for true ones.

        Returns:
            This layer's state (B, C, H, W), and the draw with its KL.
        """
        posterior, prior = self.posterior(features, state), self.prior(state)
        draw = self.latent.draw(posterior, prior, temperature)
        return self.decode(state, draw.vectors), draw

    def prior(self, state: Tensor) -> Tensor:
        """State of the layer above (B, C, h, w) -> prior parameters (B, P, H, W)."""
        if self.pstrap is None:
            B, _, h, w = state.shape
            return state.new_empty(B, 0, h * self.factor, w * self.factor)
        return self.pstrap(state)

    def posterior(self, features: Tensor, state: Tensor) -> Tensor:
        """Encoder features (B, C, H, W) and the state above (B, C, h, w) -> (B, Q, H, W)."""
        return self.qladder(features) + self.qstrap(state)

    def decode(self, state: Tensor, vectors: Tensor) -> Tensor:
        """State above (B, C, h, w) and this layer's code vectors (B, D, H, W) -> (B, C, H, W)."""
        code = self.pladder(vectors)
        if self.join is None:
            return self.dec(state) + code
        return self.join(self.dec(state), code)


class TopDown(nn.Module):
    """A hierarchy without its encoder: the learnt vector, the layers, and the head to the pixels.

    The generative model and half of the inference network: a layer owns its latents with their
    prior and decoder, and qladder and qstrap too, since the posterior sees the same states.

    Args:
        layers: l = 1 (nearest the pixels) first.
        image_size: S.
        pyramid: side of each layer's grid, l = 1 first.
        channels: C.
        outputs: P, parameter channels of the likelihood.
        init_scale: see `ResidualBlock`.
        classes: learnt vectors above the top layer, one for each class; 0 is one for all images.
    """

    def __init__(
        self,
        layers: list[TopDownLayer],
        image_size: int,
        pyramid: tuple[int, ...],
        channels: int,
        outputs: int,
        init_scale: float,
        classes: int,
    ):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.top_vector = nn.Parameter(torch.zeros(classes or 1, channels, 1, 1))  # d_{L+1}
        self.top_grid = pyramid[-1]
        self.head = head(image_size, pyramid[0], channels, outputs, init_scale)

    def top(self, batch: int, labels: Tensor | None = None) -> Tensor:
        """The state above the top layer: the learnt vector tiled over its grid, (B, C, h, w).

        Args:
            batch: B.
            labels: int64 (B,), the class of each image, by which its vector is chosen.
        """
        vector = self.top_vector if labels is None else self.top_vector[labels]
        state = vector.expand(batch, -1, self.top_grid, self.top_grid)
        # An expanded vector has no layout of its own, and the whole chain follows the first state.
        return state.contiguous(memory_format=torch.channels_last)
