"""A gated PixelCNN over a grid of codes (Oord et al. 2016): exact, and slow to sample."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrvqlib.latents import draws
from rrvqlib.nets.convolutions import Conv, conv, rescale, weight_normed
from rrvqlib.numerics import at_least_float32


def causal_conv(inputs: int, outputs: int, rows: int, columns: int) -> nn.Module:
    """A masked convolution of which the masked taps are left out: pad before it, not after."""
    return weight_normed(Conv(inputs, outputs, (rows, columns)))


def gate(maps: Tensor) -> Tensor:
    """tanh of the first half of the channels times sigmoid of the second."""
    value, opening = maps.chunk(2, dim=1)
    return value.tanh() * opening.sigmoid()


class GatedLayer(nn.Module):
    """The vertical stack sees the rows above, the horizontal one also the codes to the left.

    Args:
        channels: of either stack.
        condition: channels of what both stacks are told; 0 for nothing.
    """

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.vertical = causal_conv(channels, 2 * channels, 2, 3)
        self.horizontal = causal_conv(channels, 2 * channels, 1, 2)
        self.down = conv(2 * channels, 2 * channels, 1)
        self.condition = conv(condition, 4 * channels, 1) if condition else None
        self.out = conv(channels, channels, 1, init_scale=0.1)

    def look_up(self, above: Tensor, told: Tensor | None) -> tuple[Tensor, Tensor]:
        """The vertical stack: maps (B, C, H, W) -> its next maps, and what the rows are told."""
        rows = self.vertical(F.pad(above, (1, 1, 1, 0)))
        hint = self.down(rows)
        if told is not None and self.condition is not None:
            for_stack, for_row = self.condition(told).chunk(2, dim=1)
            rows, hint = rows + for_stack, hint + for_row
        return gate(rows), hint

    def look_left(self, left: Tensor, hint: Tensor) -> Tensor:
        """The horizontal stack: maps (B, C, H, W) and the vertical one's hint -> its next maps."""
        return left + self.out(gate(self.horizontal(F.pad(left, (1, 0))) + hint))


class GatedPixelCNN(nn.Module):
    """p(z) as the product over positions, row by row, of p(z_i | z_1 .. z_{i-1}, condition).

    Args:
        codes: K.
        channels: width.
        blocks: gated layers; each widens the view by a row and by a column to every side.
        condition_codes: K of the coarser grid of codes that the product is conditioned on; 0 for
            none.
    """

    def __init__(self, codes: int, channels: int, blocks: int, condition_codes: int = 0):
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)
        self.condition = None
        if condition_codes:
            self.condition_embedding = nn.Embedding(condition_codes, channels)
            self.condition = conv(channels, channels, 3)
        told = channels if condition_codes else 0
        self.layers = nn.ModuleList([GatedLayer(channels, told) for _ in range(blocks)])
        self.hidden = conv(channels, channels, 1)
        self.out = conv(channels, codes, 1, init_scale=0.1)

    def forward(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-probabilities of every position's codes given those before it.

        Args:
            codes: int64 (B, H, W); while sampling, the first H rows of a grid.
            condition: int64 (B, h, w), the coarser grid, W / w a power of two.

        Returns:
            (B, H, W, K), in nats; float32, or float64 where the weights are.
        """
        return self._across(codes, self._down(codes, condition))

    @property
    def _layers(self) -> list[GatedLayer]:
        return cast(list[GatedLayer], list(self.layers))

    def _down(self, codes: Tensor, condition: Tensor | None) -> list[Tensor]:
        """The vertical stack's hint to every layer of the horizontal one."""
        told = None
        if condition is not None and self.condition is not None:
            maps = self.condition(self.condition_embedding(condition).permute(0, 3, 1, 2))
            told = rescale(F.elu(maps), codes.shape[2] // condition.shape[2])
            told = told[:, :, : codes.shape[1]]
        # Shifted once, here and in `_across`: every later layer may look at its own position.
        above = F.pad(self.embedding(codes).permute(0, 3, 1, 2), (0, 0, 1, 0))[:, :, :-1]
        hints = []
        for layer in self._layers:
            above, hint = layer.look_up(above, told)
            hints.append(hint)
        return hints

    def _across(self, codes: Tensor, hints: list[Tensor]) -> Tensor:
        """The horizontal stack, and the log-probabilities."""
        left = F.pad(self.embedding(codes).permute(0, 3, 1, 2), (1, 0))[..., :-1]
        for layer, hint in zip(self._layers, hints, strict=True):
            left = layer.look_left(left, hint)
        logits = self.out(F.elu(self.hidden(F.elu(left))))
        return at_least_float32(logits).permute(0, 2, 3, 1).log_softmax(-1)

    def log_prob(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-probability of every code given those before it: (B, H, W) -> (B, H, W) nats."""
        return self(codes, condition).gather(-1, codes.unsqueeze(-1)).squeeze(-1)

    def sample(
        self, batch: int, side: int, temperature: float = 1.0, condition: Tensor | None = None
    ) -> Tensor:
        """Codes (B, side, side), drawn one after the other.

        A pass of the vertical stack for every row, and one of the horizontal stack, along its row,
        for every position.
        """
        device = self.embedding.weight.device
        codes = torch.zeros(batch, side, side, dtype=torch.long, device=device)
        for i in range(side):
            hints = [hint[:, :, i : i + 1] for hint in self._down(codes[:, : i + 1], condition)]
            for j in range(side):
                log_p = self._across(codes[:, i : i + 1], hints)[:, 0, j]
                codes[:, i, j] = draws.categorical(log_p, temperature)
        return codes
