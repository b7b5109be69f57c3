"""Code vectors -> parameters of the likelihood."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrvqlib.nets.convolutions import (
    ResidualStack,
    conv,
    linear,
    up_conv,
)
from rrvqlib.numerics import full_precision


def dtype_of(layer: nn.Module) -> torch.dtype:
    """Of a layer's parameters."""
    return next(layer.parameters()).dtype


class Head(nn.Sequential):
    """Layers of which the last two, ELU and convolution, keep their precision under autocast.

    Pixel means need more than bfloat16's 8 bits: near 1/2 its steps are half a bin wide.
    """

    def forward(self, state: Tensor) -> Tensor:
        *first, elu, last = self
        for layer in first:
            state = layer(state)
        with full_precision(state.device):
            return last(elu(state.to(dtype_of(last))))


def head(image_size: int, grid: int, channels: int, outputs: int, init_scale: float) -> Head:
    """State (B, C, grid, grid) -> (B, outputs, S, S), for the likelihood: mirror of `encoder.stem`.

    dec1 of App. C is a transposed convolution of stride 2; a plain one from the image's own grid.
    """
    layers: list[nn.Module] = [
        ResidualStack(channels, 1, 2, transposed=True, init_scale=init_scale)
        for _ in range(int(math.log2(image_size // grid)) - 1)
    ]
    if grid < image_size:
        last = up_conv(channels, outputs, 5, stride=2, init_scale=0.1)
    else:
        last = conv(channels, outputs, 5, stride=1, init_scale=0.1)
    last.precise = True
    return Head(*layers, nn.ELU(), last)


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
        self.blocks = ResidualStack(channels, blocks, 1, transposed=True, init_scale=init_scale)
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
        self.project.precise = True
        self.image_size = image_size

    def forward(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, D, grid, grid) -> parameters of the likelihood (B, P, S, S)."""
        hidden = vectors.flatten(1)
        for layer in self.hidden:
            hidden = F.elu(layer(hidden))
        with full_precision(hidden.device):  # see `Head`
            parameters = self.project(hidden.to(dtype_of(self.project)))
        return parameters.unflatten(1, (-1, self.image_size, self.image_size))
