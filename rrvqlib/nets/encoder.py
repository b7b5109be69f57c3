"""Image -> features, one map for each layer (enc and the bottom-up chain of Fig. C.3)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from rrvqlib.nets.convolutions import ResidualStack, conv, linear


def stem(
    image_channels: int, image_size: int, grid: int, channels: int, init_scale: float
) -> nn.Sequential:
    """Reals (B, c, S, S) -> features (B, C, grid, grid).

    enc1 of App. C: a convolution of stride 2; where the first latents are coarser than half the
    image (64x64 pixels, 16x16 latents), residual blocks go the rest of the way. Latents as fine as
    the image have a convolution of stride 1.
    """
    stride = 2 if grid < image_size else 1
    layers: list[nn.Module] = [conv(image_channels, channels, 5, stride=stride)]
    for _ in range(int(math.log2(image_size // grid)) - 1):
        layers.append(ResidualStack(channels, 1, 1 / 2, transposed=False, init_scale=init_scale))
    return nn.Sequential(*layers)


class BottomUp(nn.Module):
    """The deterministic chain of the inference network.

    Args:
        image_channels: c, of the images.
        image_size: S.
        pyramid: side of each layer's grid of latents, l = 1 (nearest the pixels) first.
        channels: C.
        blocks: residual blocks between two layers.
        init_scale: see `ResidualBlock`.
    """

    def __init__(
        self,
        image_channels: int,
        image_size: int,
        pyramid: tuple[int, ...],
        channels: int,
        blocks: int,
        init_scale: float,
    ):
        super().__init__()
        self.enc = nn.ModuleList(
            [stem(image_channels, image_size, pyramid[0], channels, init_scale)]
        )
        for below, grid in zip(pyramid, pyramid[1:], strict=False):
            self.enc.append(
                ResidualStack(
                    channels, blocks, grid / below, transposed=False, init_scale=init_scale
                )
            )

    def forward(self, reals: Tensor) -> list[Tensor]:
        """Reals (B, c, S, S) -> one (B, C, H_l, W_l) for each layer, l = 1 first."""
        features = []
        for enc in self.enc:
            reals = enc(reals)
            features.append(reals)
        return features


class ConvEncoder(nn.Module):
    """The encoder of the one-layer models of App. B: stem, residual blocks, one convolution.

    Args:
        image_channels: c, of the images.
        image_size: S.
        grid: side of the grid of latents.
        channels, blocks, init_scale: of the residual blocks.
        outputs: channels of the result.
    """

    def __init__(
        self,
        image_channels: int,
        image_size: int,
        grid: int,
        channels: int,
        blocks: int,
        outputs: int,
        init_scale: float,
    ):
        super().__init__()
        self.stem = stem(image_channels, image_size, grid, channels, init_scale)
        self.blocks = ResidualStack(channels, blocks, 1, transposed=False, init_scale=init_scale)
        self.project = conv(channels, outputs, 1)

    def forward(self, reals: Tensor) -> Tensor:
        """Reals (B, c, S, S) -> features (B, outputs, grid, grid)."""
        return self.project(F.elu(self.blocks(self.stem(reals))))


class MLPEncoder(nn.Module):
    """The encoder of App. H: every latent sees the whole image.

    Args: as `ConvEncoder`; `channels` is the hidden layers' width, `blocks` their number.
    """

    def __init__(
        self,
        image_channels: int,
        image_size: int,
        grid: int,
        channels: int,
        blocks: int,
        outputs: int,
    ):
        super().__init__()
        widths = [image_channels * image_size**2] + [channels] * blocks
        self.hidden = nn.ModuleList(
            [linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        )
        self.project = linear(widths[-1], outputs * grid**2)
        self.shape = (outputs, grid, grid)

    def forward(self, reals: Tensor) -> Tensor:
        """Reals (B, c, S, S) -> features (B, outputs, grid, grid)."""
        hidden = reals.flatten(1)
        for layer in self.hidden:
            hidden = F.elu(layer(hidden))
        return self.project(hidden).unflatten(1, self.shape)
