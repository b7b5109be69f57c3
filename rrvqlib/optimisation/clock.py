"""Seconds -> a position in the schedules; the pace at which the host runs ahead of a GPU."""

from __future__ import annotations

import time
from collections import deque

import torch
from torch import Tensor


class Clock:
    """How far a run has come, by steps or by the clock.

    By the clock, the schedule begins when `start` is called, after set-up, compilation and
    recording, and ends `reserve` seconds before the time is up.

    Args:
        steps: length of the schedules.
        seconds: of the whole run, set-up and scoring included; 0: by steps.
        started: `time.perf_counter()` when the run began.
    """

    def __init__(self, steps: int, seconds: float, started: float):
        self.steps, self.seconds, self.started = steps, seconds, started
        self.earlier = 0.0  # seconds that earlier processes of a resumed run took
        self.anchor = (0.0, 0.0, 1.0)

    @property
    def spent(self) -> float:
        """Seconds of the run so far, those before it was resumed included."""
        return self.earlier + time.perf_counter() - self.started

    def start(self, position: float, reserve: float) -> None:
        """The schedule goes on at `position`; `reserve` seconds are kept for finishing."""
        spent = self.spent
        self.anchor = (position, spent, self.seconds - reserve - spent)

    @property
    def left(self) -> float:
        """Seconds that were left for training when `start` was called."""
        return self.anchor[2]

    def position(self, step: int) -> float:
        """Where in its schedule a run is after so many steps; `steps` is its end."""
        if not self.seconds:
            return step
        position, then, left = self.anchor
        share = (self.spent - then) / left if left > 0 else 1.0
        return min(position + (self.steps - position) * share, self.steps)


def due(before: float, now: float, every: float) -> bool:
    """Whether a multiple of `every` lies after `before` and not after `now`."""
    return now // every > before // every


class Pace:
    """Keeps the host at most two steps ahead of a GPU, so that the clock tells the truth.

    Args:
        device: where the steps run.
    """

    ahead = 2

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.under_way: deque[tuple[torch.cuda.Event, Tensor]] = deque()

    def wait(self, value: Tensor) -> int:
        """Call after each step.

        Args:
            value: a whole number on the device, int64 ().

        Returns:
            What it was two steps ago on a GPU (0 for the first two), what it is elsewhere.
        """
        if not self.on_gpu:
            return int(value)
        host = torch.empty((), dtype=value.dtype, pin_memory=True)
        host.copy_(value, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.under_way.append((event, host))
        if len(self.under_way) <= self.ahead:
            return 0
        event, host = self.under_way.popleft()
        event.synchronize()
        return int(host)
