"""The layers that encoders and decoders are built from: weight-normed, ELU, residual."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Normed(nn.Module):
    """A layer to be weight-normed: how large its outputs are to start.

    Attributes:
        init_scale: standard deviation of the output at initialisation.
        output_dim: of the weight that counts output channels.
        precise: whether it keeps its precision under autocast.
        prepared: weight and bias where they were computed beforehand; see
            `models.batched_weights`.
    """

    weight: Tensor
    bias: Tensor
    parametrizations: Any
    init_scale: float
    output_dim: int
    precise: bool = False
    prepared: tuple[Tensor, Tensor] | None = None

    @property
    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """What the layer computes with."""
        return self.prepared or (self.weight, self.bias)


class Conv(nn.Conv2d, Normed):
    """A convolution."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, *self.weight_and_bias)


class UpConv(nn.ConvTranspose2d, Normed):
    """A transposed convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, H, W) -> larger maps; their size follows from the settings alone."""
        weight, bias = self.weight_and_bias
        stride, padding, beyond = self.stride, self.padding, self.output_padding
        assert not isinstance(padding, str)  # only convolutions take words
        return F.conv_transpose2d(input, weight, bias, stride, padding, beyond)


class Linear(nn.Linear, Normed):
    """A fully connected layer."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, *self.weight_and_bias)


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, init_scale: float = 1.0
) -> Normed:
    """A weight-normed convolution that keeps the map's side, or divides it by `stride`."""
    layer = Conv(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)
    return weight_normed(layer, init_scale)


def up_conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, init_scale: float = 1.0
) -> Normed:
    """A weight-normed transposed convolution that keeps the map's side or multiplies it.

    The kernel is odd, or twice the stride.
    """
    if kernel % 2:
        padding, output_padding = kernel // 2, stride - 1
    else:  # kernel 2 * stride, centred on the outputs that an input becomes
        padding, output_padding = stride // 2, 0
    layer = UpConv(inputs, outputs, kernel, stride, padding=padding, output_padding=output_padding)
    return weight_normed(layer, init_scale, dim=1)  # transposed: output channels come second


def linear(inputs: int, outputs: int, init_scale: float = 1.0) -> Normed:
    """A weight-normed fully connected layer."""
    return weight_normed(Linear(inputs, outputs), init_scale)


def weight_normed(layer: Normed, init_scale: float = 1.0, dim: int = 0) -> Normed:
    """The layer with fresh weights, weight-normed, marked for `data_dependent_init`.

    Args:
        layer: has weights and biases.
        init_scale: standard deviation of its output at initialisation.
        dim: of the weight that counts output channels.
    """
    nn.init.normal_(layer.weight, std=0.05)
    nn.init.zeros_(layer.bias)
    layer.init_scale, layer.output_dim = init_scale, dim
    weight_norm(layer, dim=dim)
    return layer


def rescale(maps: Tensor, factor: float) -> Tensor:
    """Resize maps (B, C, H, W) by a power of two: averages going down, copies going up."""
    if factor == 1:
        return maps
    if factor < 1:
        return F.avg_pool2d(maps, round(1 / factor))
    return F.interpolate(maps, scale_factor=factor, mode="nearest")


class ResidualBlock(nn.Module):
    """rescale(x) + conv(ELU(conv(ELU(x)))); the first convolution does the resizing.

    Args:
        channels: in and out.
        factor: of the map's side: 1, or 1/2 and so on, or 2 and so on.
        transposed: whether the first convolution is a transposed one, as in decoders (App. C).
        joined: channels of a second input, concatenated between the two convolutions (there the
            ResNet VAE lets a sample join); 0 for none.
        init_scale: standard deviation of the branch's output at initialisation.
    """

    def __init__(
        self,
        channels: int,
        factor: float = 1,
        *,
        transposed: bool = False,
        joined: int = 0,
        init_scale: float = 0.1,
    ):
        super().__init__()
        self.factor = factor
        if transposed:
            stride = round(factor)
            kernel = 3 if stride == 1 else 2 * stride
            self.first = up_conv(channels, channels, kernel, stride)
        else:
            self.first = conv(channels, channels, 3, round(1 / factor))
        self.second = conv(channels + joined, channels, 3, init_scale=init_scale)

    def forward(self, maps: Tensor, joining: Tensor | None = None) -> Tensor:
        branch = self.first(F.elu(maps))
        if joining is not None:
            branch = torch.cat([branch, joining], dim=1)
        return rescale(maps, self.factor) + self.second(F.elu(branch))


class ResidualStack(nn.Sequential):
    """`blocks` residual blocks; the first resizes."""

    def __init__(
        self, channels: int, blocks: int, factor: float, *, transposed: bool, init_scale: float
    ):
        super().__init__(
            *(
                ResidualBlock(
                    channels,
                    factor if i == 0 else 1,
                    transposed=transposed,
                    init_scale=init_scale,
                )
                for i in range(blocks)
            )
        )


class Projection(nn.Module):
    """A ladder or strap: ELU, then one convolution, or `blocks` residual blocks and one.

    Args:
        inputs, outputs: channels.
        blocks: residual blocks, of `inputs` channels.
        factor: 1, or 2 and more to upscale (straps).
        init_scale: standard deviation of the output at initialisation.
    """

    def __init__(
        self, inputs: int, outputs: int, blocks: int, factor: int = 1, init_scale: float = 0.1
    ):
        super().__init__()
        if blocks:  # App. C for L = 5: the blocks take over the upscaling
            self.blocks = ResidualStack(
                inputs, blocks, factor, transposed=factor > 1, init_scale=init_scale
            )
            factor = 1
        else:
            self.blocks = nn.Identity()
        if factor > 1:
            self.project = up_conv(inputs, outputs, 2 * factor, factor, init_scale)
        else:
            self.project = conv(inputs, outputs, 3, 1, init_scale)

    def forward(self, maps: Tensor) -> Tensor:
        return self.project(F.elu(self.blocks(maps)))
