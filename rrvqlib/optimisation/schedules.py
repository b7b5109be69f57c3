"""Where a run is -> learning rate, temperature, weight of the KL; which images a step sees.

A position counts in steps of `config.steps`: the steps made, or, by the clock (`--seconds`), the
share of the time that has passed times `steps`, and then no whole number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rrvqlib.configs import RunConfig


def temperature_at(position: float, config: RunConfig) -> float:
    """Temperature of the relaxation."""
    span = config.temperature_fraction * config.steps
    progress = min(1.0, position / span) if span else 1.0
    start, end = config.temperature, config.temperature_end
    match config.temperature_schedule:
        case "exponential":
            return start * (end / start) ** progress
        case "linear":
            return start + (end - start) * progress
    return start


def kl_weight_at(position: float, config: RunConfig) -> float:
    """Weight of the KL: rises linearly to 1, the training objective's only change."""
    span = config.kl_warmup * config.steps
    return min(1.0, (position + 1) / span) if span else 1.0


def lr_factor_at(position: float, config: RunConfig) -> float:
    """Learning rate as a multiple of `config.lr` (schedules cosine and constant)."""
    warm = min(1.0, (position + 1) / config.lr_warmup) if config.lr_warmup else 1.0
    if config.schedule != "cosine":
        return warm
    floor = config.lr_min / config.lr
    progress = min(1.0, position / config.steps)
    return warm * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


class Plateau:
    """The paper's schedule: times 0.8 after so many evaluations without a better score.

    Args:
        lr: learning rate at the start.
        floor: that it never falls below.
        patience: evaluations in a row without a new best after which it falls.
    """

    factor = 0.8

    def __init__(self, lr: float, floor: float, patience: int):
        self.lr, self.floor, self.patience = lr, floor, patience
        self.best, self.bad = math.inf, 0

    def note(self, score: float) -> None:
        """Take in the score of an evaluation; lower is better."""
        if score < self.best:
            self.best, self.bad = score, 0
            return
        self.bad += 1
        if self.bad == self.patience:
            self.lr, self.bad = max(self.lr * self.factor, self.floor), 0

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"lr": self.lr, "best": self.best, "bad": self.bad}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go back to what `state_dict` returned."""
        self.lr, self.best, self.bad = state["lr"], state["best"], state["bad"]


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """The order in which an epoch visits the n training images, on every machine alike."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def epoch_table(epoch: int, n: int, config: RunConfig) -> Tensor:
    """Which of n training images each step of an epoch sees: int64 (steps, batch_size).

    A set smaller than a batch is repeated.
    """
    order = epoch_order(config.seed, epoch, n)
    if n < config.batch_size:
        order = order.repeat(math.ceil(config.batch_size / n))
    rows = max(1, n // config.batch_size)
    return order[: rows * config.batch_size].view(rows, config.batch_size)


class ImageOrder:
    """The order of the images on the device: an epoch's table, and the row whose turn it is.

    Args:
        n: training images.
        config: has the seed and the batch size.
        device: of the table.
    """

    def __init__(self, n: int, config: RunConfig, device: torch.device):
        self.n, self.config = n, config
        self.epoch = 0
        self.table = epoch_table(0, n, config).to(device)
        self.row = torch.zeros(1, dtype=torch.int64, device=device)

    def turn_to(self, step: int) -> None:
        """Let `indices` be those of a step; the host does not wait for the device."""
        epoch, row = divmod(step, len(self.table))
        if epoch != self.epoch:
            table = epoch_table(epoch, self.n, self.config)
            if self.table.is_cuda:
                table = table.pin_memory()
            self.table.copy_(table, non_blocking=True)
            self.epoch = epoch
        self.row.fill_(row)

    def indices(self) -> Tensor:
        """int64 (batch_size,), on the device."""
        return self.table.index_select(0, self.row).squeeze(0)
