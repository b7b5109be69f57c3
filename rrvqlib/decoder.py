"""Code vectors -> parameters of the likelihood; the top-down chain of Fig. C.3."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrvqlib.convolutions import (
    Projection,
    ResidualBlock,
    ResidualStack,
    conv,
    linear,
    up_conv,
)
from rrvqlib.latents import LatentDraw
from rrvqlib.numerics import full_precision

DECODER_INPUTS = ("add", "concat")


class Head(nn.Sequential):
    """Layers of which the last two, ELU and convolution, keep their precision under autocast.

    Pixel means need more than bfloat16's 8 bits: near 1/2 its steps are half a bin wide.
    """

    def forward(self, state: Tensor) -> Tensor:
        *first, elu, last = self
        for layer in first:
            state = layer(state)
        with full_precision(state.device):
            return last(elu(state.to(last.weight.dtype)))


def head(image_size: int, grid: int, channels: int, outputs: int, init_scale: float) -> Head:
    """State (B, C, grid, grid) -> (B, outputs, S, S), for the likelihood: mirror of `encoder.stem`.

    dec1 of App. C is a transposed convolution of stride 2.
    """
    layers: list[nn.Module] = [
        ResidualStack(channels, 1, 2, True, init_scale)
        for _ in range(int(math.log2(image_size // grid)) - 1)
    ]
    return Head(*layers, nn.ELU(), up_conv(channels, outputs, 5, stride=2, init_scale=0.1))


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
        latent: nn.Module,
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
            ResidualStack(channels, ladder_blocks, 1, False, init_scale),
        )
        joins = decoder_input == "concat"
        self.dec = ResidualStack(channels, blocks - joins, factor, True, init_scale)
        self.join = (
            ResidualBlock(channels, factor if blocks == 1 else 1, True, channels, init_scale)
            if joins
            else None
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
        draw = self.latent(posterior, prior, temperature)
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
    """The deterministic chain of the generative model, from a learnt vector to the pixels.

    Args:
        layers: l = 1 (nearest the pixels) first.
        image_size: S.
        pyramid: side of each layer's grid, l = 1 first.
        channels: C.
        outputs: P, parameter channels of the likelihood.
        init_scale: see `ResidualBlock`.
    """

    def __init__(
        self,
        layers: list[TopDownLayer],
        image_size: int,
        pyramid: tuple[int, ...],
        channels: int,
        outputs: int,
        init_scale: float,
    ):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.top = nn.Parameter(torch.zeros(1, channels, 1, 1))  # d_{L+1}, tiled over the top grid
        self.top_grid = pyramid[-1]
        self.head = head(image_size, pyramid[0], channels, outputs, init_scale)

    def forward(self, batch: int, choose: Callable[[int, TopDownLayer, Tensor], Tensor]) -> Tensor:
        """Run from the top layer down to the pixels.

        Args:
            batch: B.
            choose: called for every layer with its index (0 is l = 1), itself and the state of the
                layer above, returns the code vectors (B, D, H, W). Drawing them from the
                posterior, from the prior or from a file is all that tells encoding, sampling and
                decoding apart.

        Returns:
            Parameters of the likelihood, (B, P, S, S).
        """
        return self.descend(
            batch, lambda index, layer, state: layer.decode(state, choose(index, layer, state))
        )

    def descend(self, batch: int, step: Callable[[int, TopDownLayer, Tensor], Tensor]) -> Tensor:
        """As `forward`, where `step` returns a layer's state and not its code vectors."""
        state = self.top.expand(batch, -1, self.top_grid, self.top_grid)
        # An expanded vector has no layout of its own, and the whole chain follows the first state.
        state = state.contiguous(memory_format=torch.channels_last)
        for index in reversed(range(len(self.layers))):
            state = step(index, self.layers[index], state)
        return self.head(state)


class ConvDecoder(nn.Module):
    """The decoder of the one-layer models of App. B: one convolution, residual blocks, head."""

    def __init__(
        self,
        image_size: int,
        grid: int,
        channels: int,
        blocks: int,
        inputs: int,
        outputs: int,
        init_scale: float,
    ):
        super().__init__()
        self.unproject = conv(inputs, channels, 3)
        self.blocks = ResidualStack(channels, blocks, 1, True, init_scale)
        self.head = head(image_size, grid, channels, outputs, init_scale)

    def forward(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, D, grid, grid) -> parameters of the likelihood (B, P, S, S)."""
        return self.head(self.blocks(self.unproject(vectors)))


class MLPDecoder(nn.Module):
    """The decoder of App. H: every pixel sees all latents."""

    def __init__(
        self, image_size: int, grid: int, channels: int, blocks: int, inputs: int, outputs: int
    ):
        super().__init__()
        widths = [inputs * grid**2] + [channels] * blocks
        self.hidden = nn.ModuleList(
            [linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        )
        self.project = linear(widths[-1], outputs * image_size**2, init_scale=0.1)
        self.image_size = image_size

    def forward(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, D, grid, grid) -> parameters of the likelihood (B, P, S, S)."""
        hidden = vectors.flatten(1)
        for layer in self.hidden:
            hidden = F.elu(layer(hidden))
        with full_precision(hidden.device):  # see `Head`
            parameters = self.project(hidden.to(self.project.weight.dtype))
        return parameters.unflatten(1, (-1, self.image_size, self.image_size))
