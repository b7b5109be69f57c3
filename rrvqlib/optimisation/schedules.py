"""Where a run is -> learning rate, temperature, weight of the KL.

A position counts in steps of the schedule: the steps made, or, by the clock (`--seconds`), the
share of the time that has passed times `steps`, and then no whole number.
"""

from __future__ import annotations

import math

from rrvqlib.settings.optimisation import ScheduleSettings


def temperature_at(position: float, schedule: ScheduleSettings) -> float:
    """Temperature of the relaxation."""
    span = schedule.temperature_fraction * schedule.steps
    progress = min(1.0, position / span) if span else 1.0
    start, end = schedule.temperature, schedule.temperature_end
    match schedule.temperature_schedule:
        case "exponential":
            return start * (end / start) ** progress
        case "linear":
            return start + (end - start) * progress
    return start


def kl_weight_at(position: float, schedule: ScheduleSettings) -> float:
    """Weight of the KL in the loss: rises linearly to 1."""
    span = schedule.kl_warmup * schedule.steps
    return min(1.0, (position + 1) / span) if span else 1.0


def lr_factor_at(position: float, schedule: ScheduleSettings) -> float:
    """The learning rate as a share of `schedule.lr` (schedules cosine and constant)."""
    warm = min(1.0, (position + 1) / schedule.lr_warmup) if schedule.lr_warmup else 1.0
    if schedule.schedule != "cosine":
        return warm
    floor = schedule.lr_min / schedule.lr
    progress = min(1.0, position / schedule.steps)
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
