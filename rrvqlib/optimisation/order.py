"""Which training images a step sees."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """The order in which an epoch visits the n training images, on every machine alike."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


class ImageOrder:
    """The order of the images on the device: an epoch's table, and the row whose turn it is.

    Args:
        n: training images.
        batch_size: of a step.
        seed: of the run.
        device: of the table.
    """

    def __init__(self, n: int, batch_size: int, seed: int, device: torch.device):
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.epoch = 0
        self.table = self.epoch_table(0).to(device)
        self.row = torch.zeros(1, dtype=torch.int64, device=device)

    def epoch_table(self, epoch: int) -> Tensor:
        """Which of n training images each step of an epoch sees: int64 (steps, batch_size).

        A set smaller than a batch is repeated.
        """
        order = epoch_order(self.seed, epoch, self.n)
        if self.n < self.batch_size:
            order = order.repeat(math.ceil(self.batch_size / self.n))
        rows = max(1, self.n // self.batch_size)
        return order[: rows * self.batch_size].view(rows, self.batch_size)

    def turn_to(self, step: int) -> None:
        """Let `indices` be those of a step; the host does not wait for the device."""
        epoch, row = divmod(step, len(self.table))
        if epoch != self.epoch:
            table = self.epoch_table(epoch)
            if self.table.is_cuda:
                table = table.pin_memory()
            self.table.copy_(table, non_blocking=True)
            self.epoch = epoch
        self.row.fill_(row)

    def indices(self) -> Tensor:
        """int64 (batch_size,), on the device."""
        return self.table.index_select(0, self.row).squeeze(0)
