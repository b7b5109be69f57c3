"""What the host tells a step, and what it reads afterwards: numbers that live on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rrvqlib.numerics import widest_float

NORMS = 100  # gradient norms whose median a norm is compared to


class Dials:
    """What the host sets before each step: numbers on the device, written without waiting."""

    def __init__(self, device: torch.device):
        self.rates = torch.zeros(2, dtype=widest_float(device), device=device)
        self.temperature = torch.ones((), device=device)
        self.kl_weight = torch.ones((), device=device)

    def set(self, rates: tuple[float, float], temperature: float, kl_weight: float) -> None:
        """Learning rates of networks and codebooks, temperature, weight of the KL."""
        for place, rate in zip(self.rates, rates, strict=True):
            place.fill_(rate)
        self.temperature.fill_(temperature)
        self.kl_weight.fill_(kl_weight)


class Statistics:
    """What the steps since the last evaluation saw, on the device until somebody asks."""

    def __init__(self, device: torch.device):
        def numbers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=widest_float(device), device=device)

        # Over the steps since the last evaluation that were not skipped.
        self.steps, self.loss, self.norm = numbers(), numbers(), numbers()
        self.largest_norm, self.largest_kl = numbers(), numbers()
        self.window = (self.steps, self.loss, self.norm, self.largest_norm, self.largest_kl)
        # Over the whole run.
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_a_row = torch.zeros_like(self.skipped)
        self.norms = numbers(NORMS) + math.inf  # the latest finite ones, a ring
        self.seen = torch.zeros_like(self.skipped)  # how many there were
        self.places = torch.arange(NORMS, device=device)

    def tensors(self) -> tuple[Tensor, ...]:
        """All that a step changes."""
        counts = (self.skipped, self.skipped_in_a_row, self.norms, self.seen)
        return (*self.window, *counts)

    def median_norm(self) -> Tensor:
        """Of the latest gradient norms; infinite before the first."""
        ordered = self.norms.sort().values
        count = self.seen.clamp(1, NORMS)
        middle = torch.stack([(count - 1) // 2, count // 2])
        return ordered.index_select(0, middle).mean()

    def trusts(self, loss: Tensor, norm: Tensor, skip_above: float) -> Tensor:
        """bool (): whether a step's gradient is finite and not far above the usual norm."""
        finite = torch.isfinite(loss + norm)
        if not skip_above:
            return finite
        return finite & (norm <= skip_above * self.median_norm())

    def note(self, loss: Tensor, norm: Tensor, largest_kl: Tensor, wanted: Tensor) -> None:
        """Count a step; the arguments are all ()."""
        # Norms of skipped steps count too: a fixed bound could lock up for good.
        finite = norm.isfinite()
        here = (self.places == self.seen % NORMS) & finite
        self.norms.copy_(torch.where(here, norm, self.norms))
        self.seen += finite
        self.skipped += ~wanted
        self.skipped_in_a_row.copy_(torch.where(wanted, 0, self.skipped_in_a_row + 1))
        self.steps += wanted
        for total, value in ((self.loss, loss), (self.norm, norm)):
            total += torch.where(wanted, value, 0.0)
        for most, value in ((self.largest_norm, norm), (self.largest_kl, largest_kl)):
            most.copy_(torch.where(wanted, torch.maximum(most, value), most))

    def read(self) -> dict[str, float]:
        """What the steps since the last call saw; waits for the device."""
        steps, loss, norm, largest_norm, largest_kl = torch.stack(self.window).tolist()
        for number in self.window:
            number.zero_()
        count = max(1.0, steps)
        return {
            "loss": loss / count,
            "norm": norm / count,
            "largest_norm": largest_norm,
            "largest_kl": largest_kl,
        }
