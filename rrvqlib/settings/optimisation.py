"""How weights move, and what changes in the course of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rrvqlib.settings.fields import SettingError, Settings, setting

MAX_LR = 1.0  # AdaMax and Adam move every weight by about lr a step, and weights are below 1


@dataclass(frozen=True, kw_only=True)
class OptimisationSettings(Settings):
    """How weights move."""

    # Of a generator's 64 bits 40 are for the step and the process.
    seed: int = setting(0, "of initialisation, order and noise", at_least=0, below=2**24)
    start_from: str = setting(
        "",
        "folder of a run whose averaged weights this one starts with (its optimiser starts afresh);"
        " with --second_stage, the run of the first; none starts from noise",
    )
    batch_size: int = setting(64, "images per step, global: shared by all processes", at_least=1)
    optimizer: Literal["adamax", "adam"] = setting("adamax", "adamax or adam")
    codebook_lr_factor: float = setting(
        5.0,
        "learning rate of codebooks and likelihood scale, as a multiple of lr",
        above=0,
        at_most=1e4,
    )
    max_grad_norm: float = setting(
        1.0, "gradients of the loss in bits per dim are clipped to this norm; 0: off", at_least=0
    )
    grad_skip_factor: float = setting(
        20.0,
        "skip a step whose gradient norm exceeds this many running medians; 0: never",
        at_least=0,
    )
    max_skipped: int = setting(
        100, "skipped steps in a row after which training stops with a message", at_least=1
    )
    ema_decay: float = setting(
        0.999, "of the weights' average, used to evaluate; 0: off", at_least=0, below=1
    )
    free_nats: float = setting(0.0, "free bits: nats of KL that cost nothing; 0: off", at_least=0)
    free_nats_group: Literal["layer", "position"] = setting(
        "layer", "free nats per layer and image, or per position"
    )

    def idle(self) -> dict[str, str]:
        return {} if self.free_nats else {"free_nats_group": "without free_nats"}


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(Settings):
    """What changes in the course of a run."""

    steps: int = setting(
        1000, "optimiser steps; with --seconds, the length of the schedules alone", at_least=1
    )
    seconds: float = setting(
        0.0,
        "train by the clock: all schedules follow the time, and the run is scored when it is up;"
        " 0: by steps",
        at_least=0,
    )
    lr: float = setting(
        8e-3,
        "learning rate of the networks at the start (after warm-up)",
        above=0,
        at_most=MAX_LR,
    )
    schedule: Literal["cosine", "plateau", "constant"] = setting(
        "cosine", "of the learning rate: cosine (to lr_min), plateau (x 0.8) or constant"
    )
    lr_warmup: int = setting(
        50,
        "steps over which the learning rate rises from 0 (not with schedule plateau)",
        at_least=0,
    )
    lr_min: float = setting(5e-5, "learning rate at the end", at_least=0)
    plateau_patience: int = setting(
        20,
        "evaluations in a row without a better validation ELBO after which lr falls (schedule"
        " plateau)",
        at_least=1,
    )
    temperature: float = setting(1.0, "of the relaxation at the start", above=0)
    temperature_end: float = setting(0.5, "of the relaxation at the end", above=0)
    temperature_schedule: Literal["exponential", "linear", "constant"] = setting(
        "exponential", "how it falls between the two"
    )
    temperature_fraction: float = setting(
        1.0, "fraction of the steps over which it falls", at_least=0, at_most=1
    )
    kl_warmup: float = setting(
        0.02, "fraction of the steps over which the KL's weight rises to 1", at_least=0, at_most=1
    )

    def check(self) -> None:
        if self.schedule != "constant" and self.lr_min > self.lr:
            raise SettingError("lr_min", self.lr_min, f"must be at most lr ({self.lr})")
        falls = self.temperature_schedule != "constant"
        if falls and self.temperature_end > self.temperature:
            rule = f"must be at most temperature ({self.temperature})"
            raise SettingError("temperature_end", self.temperature_end, rule)

    def idle(self) -> dict[str, str]:
        found: dict[str, str] = {}
        schedule = f"with schedule {self.schedule}"
        if self.schedule != "plateau":
            found["plateau_patience"] = schedule
        if self.schedule == "plateau":
            found["lr_warmup"] = schedule
        if self.schedule == "constant":
            found["lr_min"] = schedule
        if self.temperature_schedule == "constant":
            names = ("temperature_end", "temperature_fraction")
            found |= dict.fromkeys(names, "with temperature_schedule constant")
        return found
