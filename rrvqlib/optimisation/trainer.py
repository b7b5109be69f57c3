"""The training loop: settings and a folder -> a trained model in a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rrvqlib.data.splits import Splits
from rrvqlib.errors import UserError
from rrvqlib.models.base import VAE
from rrvqlib.numerics import true_float32, uses_bf16
from rrvqlib.optimisation import reports
from rrvqlib.optimisation.clock import Clock, Pace, due
from rrvqlib.optimisation.compiled import compile_errors, compile_layers
from rrvqlib.optimisation.cuda_graph import recorded, records_steps
from rrvqlib.optimisation.feed import fits
from rrvqlib.optimisation.log import MetricsLog
from rrvqlib.optimisation.processes import Processes
from rrvqlib.optimisation.schedules import Plateau, kl_weight_at, lr_factor_at, temperature_at
from rrvqlib.optimisation.signals import Stopped, StopRequest
from rrvqlib.optimisation.start import check_processes, first_model
from rrvqlib.optimisation.state import Progress, resume, state_of
from rrvqlib.optimisation.step import Step
from rrvqlib.runs.checkpoint import CHECKPOINT, save_state
from rrvqlib.runs.folder import with_classes
from rrvqlib.settings.run import RunSettings


class Trainer:
    """One run: a step and what goes on around it.

    Args:
        settings: of the run.
        splits: its images.
        out: the run folder, which exists.
        name: of the run, for `run.json`.
        resumed: `resume` is going to be called, so the first weights do not matter.
        started: `time.perf_counter()` when the run began; now where it is left out.
        watch: called after every evaluation with the trainer and the line that was logged; what
            it raises ends the training.
    """

    def __init__(
        self,
        settings: RunSettings,
        splits: Splits,
        out: Path,
        name: str,
        *,
        resumed: bool = False,
        started: float | None = None,
        watch: Callable[[Trainer, dict[str, Any]], None] | None = None,
    ):
        self.settings, self.out, self.name = settings, out, name
        self.splits = splits = with_classes(splits, settings.model.classes)
        self.watch = watch
        schedule = settings.schedule
        self.clock = Clock(schedule.steps, schedule.seconds, started or time.perf_counter())
        self.processes = Processes(settings.machine)
        self.device = self.processes.device
        check_processes(settings, self.processes.count)
        self.progress = Progress()
        images, labels = splits.train, splits.labels.get("train")
        if fits(images, self.device):
            images = images.to(self.device)
            labels = None if labels is None else labels.to(self.device)
        self.model = first_model(settings, images, labels, self.device, resumed=resumed)
        self.compute = Step(
            self.model,
            images,
            settings,
            self.processes.rank,
            self.processes.count,
            labels=labels,
            bf16=uses_bf16(settings.machine.precision, self.device),
            all_mean=self.processes.mean,
        )
        self.on_device: Callable[[], None] = self.compute  # or a recording of it
        self.plateau = Plateau(schedule.lr, schedule.lr_min, schedule.plateau_patience)
        self.pace = Pace(self.device)
        if settings.machine.compile:
            compile_layers(self.model)

    @property
    def evaluated(self) -> VAE:
        """The model that is evaluated and kept, the average of the weights if there is one."""
        return self.compute.evaluated

    @property
    def skipped(self) -> int:
        """Steps skipped so far; waits for the device."""
        return int(self.compute.statistics.skipped)

    @property
    def done(self) -> bool:
        """Whether the schedules have come to their end."""
        return self.progress.position >= self.settings.schedule.steps

    @property
    def lr(self) -> float:
        """Learning rate of the networks, now."""
        schedule = self.settings.schedule
        if schedule.schedule == "plateau":
            return self.plateau.lr
        return schedule.lr * lr_factor_at(self.progress.position, schedule)

    def uncompiled(self) -> AbstractContextManager[Any]:
        """Where the model runs as it is: every size of batch would be compiled anew."""
        # Not for every run: this imports the compiler.
        compiled = self.settings.machine.compile
        return torch.compiler.set_stance("force_eager") if compiled else nullcontext()

    def step(self) -> None:
        """Set the dials, make one step, count it.

        Raises:
            UserError: too many steps in a row were skipped; the last good weights are saved.
        """
        settings, progress = self.settings.optimisation, self.progress
        # Noise depends on seed, step and process alone, so that a resumed run draws it again.
        torch.manual_seed((settings.seed << 40) + (progress.step << 8) + self.processes.rank)
        self.compute.feed.turn_to(progress.step)
        self.set_dials()
        self.on_device()
        progress.step += 1
        skipped_in_a_row = self.pace.wait(self.compute.statistics.skipped_in_a_row)
        progress.seconds = self.clock.spent
        progress.position = self.clock.position(progress.step)
        if skipped_in_a_row >= settings.max_skipped:
            self.save()
            raise UserError(
                f"{settings.max_skipped} steps in a row were skipped for their gradients (step"
                f" {progress.step}); the last good weights are kept. Train anew in another"
                " --out, with a lower --lr or a longer --kl_warmup"
            )

    def set_dials(self) -> None:
        """Tell the step what the schedules say now."""
        position, schedule = self.progress.position, self.settings.schedule
        codebook_lr = self.lr * self.settings.optimisation.codebook_lr_factor
        temperature = temperature_at(position, schedule)
        self.compute.dials.set(
            (self.lr, codebook_lr), temperature, kl_weight_at(position, schedule)
        )

    def run(self, stop: StopRequest | None = None, *, show_progress: bool = True) -> None:
        """Train to the end of the schedules; evaluate and save on the way.

        Args:
            stop: is asked after every step whether a signal came.
            show_progress: whether to show a progress bar, on a terminal.

        Raises:
            Stopped: a signal came; the run is saved.
            UserError: the gradients stayed wild, the model cannot be compiled here, or the time
                does not suffice for a step.
        """
        evaluation, progress = self.settings.evaluation, self.progress
        stop = stop or StopRequest()
        log = None
        if self.processes.is_main:
            reports.describe(self)  # first: from then on the folder is known to be a run's
            log = MetricsLog(self.out, progress.step)
        with true_float32(), self.progress_bar(shown=show_progress and log is not None) as bar:
            self.prepare(bar)
            while not self.done:
                before = progress.position
                with compile_errors():
                    self.step()
                signum, progress.position = self.processes.agree(stop.signum, progress.position)
                bar.update(min(progress.position, self.settings.schedule.steps) - before)
                if self.done or due(before, progress.position, evaluation.eval_every):
                    valid = self.report(log, stop)
                    bar.set_postfix_str(f"valid {valid:.3f} bits/dim" if log else "")
                saves = due(before, progress.position, evaluation.save_every)
                if self.done or signum or saves:
                    self.save()
                if log and saves and not (self.done or signum):  # at the end come larger ones
                    reports.show_pictures(self, log.events)
                if signum:
                    raise Stopped(int(signum), progress.step)
            signum, _ = self.processes.agree(stop.signum, progress.position)
            if signum:  # it came during the last evaluation
                raise Stopped(int(signum), progress.step)

    def progress_bar(self, *, shown: bool) -> tqdm:
        """Over the steps; by the clock, over the schedule in per cent."""
        unit: dict[str, Any] = {"unit": "step"}
        if self.settings.schedule.seconds:
            layout = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
            unit = {"unit": "", "bar_format": layout}
        return tqdm(
            total=self.settings.schedule.steps,
            initial=self.progress.position,
            disable=None if shown else True,
            dynamic_ncols=True,
            **unit,
        )

    def prepare(self, bar: tqdm) -> None:
        """What comes before the first step: recording, and the time that finishing will take."""
        if self.settings.machine.compile:
            bar.set_postfix_str("compiling")
        if self.on_device is self.compute and records_steps(
            self.settings.machine, self.device, self.processes.count
        ):
            self.set_dials()  # with rates of 0 a recording could not be told from one that fails
            self.on_device = recorded(self.compute)
        if self.settings.schedule.seconds:
            self.start_clock()

    def start_clock(self) -> None:
        """By the clock of the first process, keep what finishing takes and begin.

        Raises:
            UserError: nothing is left for training.
        """
        reserve = reports.finishing_seconds(self) if self.processes.is_main else 0.0
        self.clock.start(self.progress.position, reserve)
        _, left = self.processes.agree(0.0, self.clock.left)
        if left <= 0 and not self.progress.step:
            raise UserError(
                f"--seconds {self.settings.schedule.seconds:g}: {self.clock.spent:.0f} seconds have"
                f" passed before the first step, and scoring takes {reserve:.0f}; give more, or a"
                " lower --iw_images"
            )
        position = self.clock.position(self.progress.step)
        _, self.progress.position = self.processes.agree(0.0, position)

    def report(self, log: MetricsLog | None, stop: StopRequest | None = None) -> float:
        """Evaluate, in the main process alone, and let the plateau schedule know.

        Returns:
            Bits per dim on validation images, the same in all processes.
        """
        valid = 0.0
        if log:
            line = reports.evaluation(self)
            log.add(line)
            valid = line["valid_bits_per_dim"]
            if self.watch and not (stop and stop.signum):  # it could end the run in its own way
                self.watch(self, line)
        _, valid = self.processes.agree(0.0, valid)
        if self.settings.schedule.schedule == "plateau":
            self.plateau.note(valid)
        return valid

    def save(self) -> None:
        """Write the resumable checkpoint."""
        if self.processes.is_main:
            save_state(self.out / CHECKPOINT, state_of(self))

    def resume(self) -> None:
        """Go back to the checkpoint of the run folder; see `state.resume`."""
        resume(self)
