"""Gradients -> new weights, on one vector: AdaMax (Kingma and Ba 2015), and Adam beside it.

Everything that decides a step is a tensor, the learning rates too, and whether the step is wanted
at all: a step can be recorded once and replayed, and it never waits for the device. torch's own
optimisers turn a learning rate into a number of the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rrvqlib.numerics import widest_float

BETA1, BETA2 = 0.9, 0.999
EPSILON = 1e-8


class AdaMax:
    """AdaMax with the bias correction of the paper; equals `torch.optim.Adamax`.

    Args:
        values: all weights, (N,); changed in place.
        sizes: how many of them, from the front, each learning rate moves; the rest stays.
    """

    def __init__(self, values: Tensor, sizes: tuple[int, ...]):
        moved = sum(sizes)
        self.values, self.sizes = values[:moved], sizes
        self.count = torch.zeros((), dtype=widest_float(values.device), device=values.device)
        self.average = torch.zeros_like(self.values)  # of the gradients
        self.spread = torch.zeros_like(self.values)  # their largest absolute value, decaying

    @torch.no_grad()
    def step(self, gradient: Tensor, rates: Tensor, wanted: Tensor) -> None:
        """Move the weights, unless the step is not wanted: then nothing changes at all.

        Args:
            gradient: (N moved,); may hold anything where the step is not wanted.
            rates: a learning rate for each of `sizes`.
            wanted: bool ().
        """
        count = self.count + 1
        average = self.average.lerp(gradient, 1 - BETA1)
        spread = self._spread(gradient)
        size = self._size(spread, count)
        steps = rates / (BETA1**count - 1)  # negative: downhill
        # Chosen by `where`, not multiplied by `wanted`: 0 times NaN is NaN.
        parts = (tensor.split(self.sizes) for tensor in (self.values, average, size))
        for value, part, divisor, step in zip(*parts, steps.unbind(), strict=True):
            moved = torch.addcdiv(value, part * step.to(part.dtype), divisor)
            torch.where(wanted, moved, value, out=value)
        for old, new in ((self.average, average), (self.spread, spread), (self.count, count)):
            torch.where(wanted, new, old, out=old)

    def _spread(self, gradient: Tensor) -> Tensor:
        return torch.maximum(self.spread * BETA2, gradient.abs().add_(EPSILON))

    def _size(self, spread: Tensor, count: Tensor) -> Tensor:
        """What the average gradient is divided by."""
        return spread

    def tensors(self) -> tuple[Tensor, ...]:
        """All that a step changes: the weights, then what a checkpoint keeps."""
        return self.values, self.average, self.spread, self.count


class Adam(AdaMax):
    """Adam; equals `torch.optim.Adam`, up to rounding."""

    def _spread(self, gradient: Tensor) -> Tensor:
        return self.spread.lerp(gradient.square(), 1 - BETA2)

    def _size(self, spread: Tensor, count: Tensor) -> Tensor:
        correction = (1 - BETA2**count).sqrt().to(spread.dtype)
        return spread.sqrt() / correction + EPSILON


OPTIMIZERS = {"adamax": AdaMax, "adam": Adam}
