"""Two or more ways of doing one thing, timed in turns so that a busy machine hits them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one way: median, smallest and largest of the repetitions."""

    name: str
    median: float
    least: float
    most: float


def in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> list[Timing]:
    """Run every way once to warm up, then all of them in turns, `repeats` times."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        call()
    for _ in range(repeats):
        for name, call in ways.items():
            synchronise()
            start = time.perf_counter()
            call()
            synchronise()
            times[name].append(1000 * (time.perf_counter() - start))
    return [Timing(n, statistics.median(t), min(t), max(t)) for n, t in times.items()]


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
