"""The training loop: configs.RunConfig and a folder -> a trained model in a run folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rrvqlib import data, pictures
from rrvqlib.checkpoint import (
    CHECKPOINT,
    load_state,
    load_weights,
    read_json,
    save_model,
    save_state,
    write_json,
)
from rrvqlib.configs import RunConfig
from rrvqlib.errors import UserError
from rrvqlib.models import VAE, build
from rrvqlib.numerics import true_float32, uses_bf16
from rrvqlib.optimisation import records
from rrvqlib.optimisation.clock import Clock, Pace, due
from rrvqlib.optimisation.compiled import compile_errors, compile_layers
from rrvqlib.optimisation.log import MetricsLog
from rrvqlib.optimisation.processes import Processes
from rrvqlib.optimisation.recording import recorded
from rrvqlib.optimisation.schedules import (
    Plateau,
    epoch_order,
    kl_weight_at,
    lr_factor_at,
    temperature_at,
)
from rrvqlib.optimisation.signals import Stopped, StopRequest
from rrvqlib.optimisation.step import Step
from rrvqlib.run_folder import check_same_images, images_of
from rrvqlib.scoring import score

INIT_IMAGES = 256  # of the batch that data-dependent initialisation sees
# What finishing is held to take, as a multiple of what a few batches say, and at least (seconds).
RESERVE_FACTOR, RESERVE_FLOOR = 1.3, 2.0


@dataclass
class Progress:
    """Counters that a checkpoint keeps."""

    step: int = 0
    position: float = 0.0  # in the schedules; see `rrvqlib.optimisation.clock`
    seconds: float = 0.0


def seed_step(config: RunConfig, step: int, rank: int) -> None:
    """Noise depends on seed, step and process alone, so that a resumed run draws it again."""
    torch.manual_seed((config.seed << 40) + (step << 8) + rank)


class Trainer:
    """One run: a step and what goes on around it.

    Args:
        config: the run's settings.
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
        config: RunConfig,
        splits: data.Splits,
        out: Path,
        name: str,
        resumed: bool = False,
        started: float | None = None,
        watch: Callable[[Trainer, dict[str, Any]], None] | None = None,
    ):
        self.config, self.splits, self.out, self.name = config, splits, out, name
        self.watch = watch
        self.clock = Clock(config.steps, config.seconds, started or time.perf_counter())
        self.processes = Processes(config)
        self.device = self.processes.device
        self._check_processes()
        self.progress = Progress()
        torch.manual_seed(config.seed)
        # The same weights and the same first batch in every process.
        model = build(config.model_config).to(self.device)
        images = splits.train.to(self.device)
        if config.start_from and not resumed:
            load_weights(model, config.start_from)
        if not resumed and (config.second_stage != "none" or not config.start_from):
            first = epoch_order(config.seed, 0, len(images))[:INIT_IMAGES].to(self.device)
            layout = torch.channels_last if config.channels_last else torch.contiguous_format
            model.initialise(images[first].contiguous(memory_format=layout))
        self.model = model
        self.compute = Step(
            model,
            images,
            config,
            self.processes.rank,
            self.processes.count,
            uses_bf16(config.precision, self.device),
            self.processes.mean,
        )
        self.on_device: Callable[[], None] = self.compute  # or a recording of it
        self.plateau = Plateau(config.lr, config.lr_min, config.plateau_patience)
        self.pace = Pace(self.device)
        if config.compile:
            compile_layers(model)

    def _check_processes(self) -> None:
        config, count = self.config, self.processes.count
        if config.batch_size % (count * config.grad_accumulation):
            raise UserError(
                f"--batch_size {config.batch_size}: must be a multiple of {count} processes"
                f" times grad_accumulation ({config.grad_accumulation})"
            )
        if config.cuda_graphs == "true" and count > 1:
            raise UserError(
                f"--cuda_graphs true: {count} processes cannot record their steps; leave it out"
            )

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
        return self.progress.position >= self.config.steps

    @property
    def lr(self) -> float:
        """Learning rate of the networks, now."""
        if self.config.schedule == "plateau":
            return self.plateau.lr
        return self.config.lr * lr_factor_at(self.progress.position, self.config)

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Where the model runs as it is: every size of batch would be compiled anew."""
        # Not for every run: this imports the compiler.
        return torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext()

    def step(self) -> None:
        """Set the dials, make one step, count it.

        Raises:
            UserError: too many steps in a row were skipped; the last good weights are saved.
        """
        config, progress = self.config, self.progress
        seed_step(config, progress.step, self.processes.rank)
        self.compute.order.turn_to(progress.step)
        self.compute.dials.set(
            (self.lr, self.lr * config.codebook_lr_factor),
            temperature_at(progress.position, config),
            kl_weight_at(progress.position, config),
        )
        self.on_device()
        progress.step += 1
        skipped_in_a_row = self.pace.wait(self.compute.statistics.skipped_in_a_row)
        progress.seconds = self.clock.spent
        progress.position = self.clock.position(progress.step)
        if skipped_in_a_row >= config.max_skipped:
            self.save()
            raise UserError(
                f"{config.max_skipped} steps in a row were skipped for their gradients (step"
                f" {progress.step}); the last good weights are kept. Train anew in another"
                " --out, with a lower --lr or a longer --kl_warmup"
            )

    def run(self, stop: StopRequest | None = None, show_progress: bool = True) -> None:
        """Train to the end of the schedules; evaluate and save on the way.

        Args:
            stop: is asked after every step whether a signal came.
            show_progress: whether to show a progress bar, on a terminal.

        Raises:
            Stopped: a signal came; the run is saved.
            UserError: the gradients stayed wild, the model cannot be compiled here, or the time
                does not suffice for a step.
        """
        config, progress = self.config, self.progress
        stop = stop or StopRequest()
        log = None
        if self.processes.is_main:
            self.describe()  # first: from then on the folder is known to be a run's
            log = MetricsLog(self.out, progress.step)
        with true_float32(), self.progress_bar(show_progress and log is not None) as bar:
            self.prepare(bar)
            while not self.done:
                before = progress.position
                with compile_errors():
                    self.step()
                signum, progress.position = self.processes.agree(stop.signum, progress.position)
                bar.update(min(progress.position, config.steps) - before)
                if self.done or due(before, progress.position, config.eval_every):
                    valid = self.report(log)
                    bar.set_postfix_str(f"valid {valid:.3f} bits/dim" if log else "")
                if self.done or signum or due(before, progress.position, config.save_every):
                    self.save()
                if signum:
                    raise Stopped(int(signum), progress.step)

    def progress_bar(self, shown: bool) -> tqdm:
        """Over the steps; by the clock, over the schedule in per cent."""
        steps, position = self.config.steps, self.progress.position
        unit = {"unit": "step"}
        if self.config.seconds:
            layout = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
            unit = {"unit": "", "bar_format": layout}
        return tqdm(
            total=steps,
            initial=position,
            disable=None if shown else True,
            dynamic_ncols=True,
            **unit,
        )

    def prepare(self, bar: tqdm) -> None:
        """What comes before the first step: recording, and the time that finishing will take."""
        if self.config.compile:
            bar.set_postfix_str("compiling")
        if self.records and self.on_device is self.compute:
            self.on_device = recorded(self.compute)
        if self.config.seconds:
            reserve = self.finishing_seconds()
            self.clock.start(self.progress.position, reserve)
            if self.clock.left <= 0 and not self.progress.step:
                raise UserError(
                    f"--seconds {self.config.seconds:g}: {self.clock.spent:.0f} seconds have passed"
                    f" before the first step, and scoring takes {reserve:.0f}; give more, or a"
                    " lower --iw_images"
                )
            self.progress.position = self.clock.position(self.progress.step)

    @property
    def records(self) -> bool:
        """Whether steps are recorded as a CUDA graph."""
        config = self.config
        if self.device.type != "cuda":
            if config.cuda_graphs == "true":
                print(
                    "--cuda_graphs true: there is no GPU, steps are not recorded", file=sys.stderr
                )
            return False
        can = self.processes.count == 1 and config.grad_accumulation == 1
        return can and config.cuda_graphs != "false"

    def finishing_seconds(self) -> float:
        """How long scores and pictures will take, measured on a batch."""
        size = min(records.eval_batch(self.config), len(self.splits.train))
        images, seconds = self.splits.train[:size], []
        with self._uncompiled():
            for _ in range(3):  # the first one warms up
                started = time.perf_counter()
                score(self.evaluated, images, size)
                seconds.append(time.perf_counter() - started)
        expected = min(seconds) / size * records.forward_passes(self.splits, self.config)
        return RESERVE_FACTOR * expected + RESERVE_FLOOR

    # Reporting, saving, resuming.

    def evaluate(self) -> dict[str, Any]:
        """A line of `metrics.jsonl`: validation score and what the steps since the last one saw."""
        config, progress = self.config, self.progress
        images = self.splits.valid[: config.eval_images or None]
        with self._uncompiled():
            valid = score(self.evaluated, images, records.eval_batch(config), config.seed)
        seen = self.compute.statistics.read()
        return {
            "step": progress.step,
            "images_seen": progress.step * config.batch_size,
            "seconds": round(progress.seconds, 1),
            "lr": self.lr,
            "temperature": temperature_at(progress.position, config),
            "train_loss_bits_per_dim": seen["loss"],
            "valid_bits_per_dim": valid["bits_per_dim"],
            "valid_bits_per_dim_se": valid["bits_per_dim_se"],
            "kl_bits_per_dim": valid["kl_bits_per_dim"],
            "perplexity": valid["perplexity"],
            "prior_entropy_bits": valid["prior_entropy_bits"],
            "grad_norm": seen["norm"],
            "grad_norm_max": seen["largest_norm"],
            "largest_layer_kl": seen["largest_kl"],
            "skipped_steps": self.skipped,
        }

    def report(self, log: MetricsLog | None) -> float | None:
        """Evaluate, in the main process alone, and let the plateau schedule know.

        Returns:
            Bits per dim on validation images; None in helper processes.
        """
        valid = 0.0
        if log:
            line = self.evaluate()
            log.add(line)
            valid = line["valid_bits_per_dim"]
            if self.watch:
                self.watch(self, line)
        _, valid = self.processes.agree(0.0, valid)
        if self.config.schedule == "plateau":
            self.plateau.note(valid)
        return valid if log else None

    def save(self) -> None:
        """Write the resumable checkpoint."""
        if self.processes.is_main:
            save_state(self.out / CHECKPOINT, self.state())

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        average = self.compute.average
        return {
            "config": asdict(self.config),
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "average": average.model.state_dict() if average else None,
            "optimizer": list(self.compute.optimizer.tensors()[1:]),
            "statistics": list(self.compute.statistics.tensors()),
            "plateau": self.plateau.state_dict(),
        }

    def resume(self) -> None:
        """Go back to the checkpoint of the run folder.

        Raises:
            UserError: there is none, it is damaged, or it belongs to other settings, images or to
                another version.
        """
        path = self.out / CHECKPOINT
        state = load_state(path)
        try:
            records.check_same_run(state["config"], self.config)
            self.restore(state)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} is of another version or model ({type(error).__name__}: {reason});"
                " train anew in another --out"
            ) from None
        check_same_images(self.out, self.config.dataset, self.splits)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the state that `save` wrote."""
        self.model.load_state_dict(state["model"])
        if self.compute.average:
            self.compute.average.model.load_state_dict(state["average"])
        for ours, stored in (
            (self.compute.optimizer.tensors()[1:], state["optimizer"]),
            (self.compute.statistics.tensors(), state["statistics"]),
        ):
            for tensor, value in zip(ours, stored, strict=True):
                tensor.copy_(value)
        self.plateau.load_state_dict(state["plateau"])
        self.progress = Progress(**state["progress"])
        self.clock.earlier = self.progress.seconds

    def finish(self, label: str = "", complete: bool = True) -> dict[str, Any]:
        """Write model, results and pictures; return the results.

        Raises:
            UserError: every step was skipped, so there is nothing new to score.
        """
        config, model = self.config, self.evaluated
        if self.progress.step and self.skipped == self.progress.step:
            raise UserError(
                f"all {self.progress.step} steps were skipped for their gradients: nothing was"
                " learnt. Train anew in another --out, with a lower --lr or a higher --temperature"
            )
        save_model(model, self.out, config.weights_dtype, config.shard_mb)
        with self._uncompiled():
            results = records.final_results(model, self.splits, config, complete, label)
            pictures.write_run_pictures(model, self.splits.test, self.out, config.seed)
        self.progress.seconds = self.clock.spent
        self.describe()
        write_json(self.out / "results.json", results)  # last: it says that the run has a score
        return results

    def describe(self) -> None:
        """Write `run.json`."""
        progress = {
            "wall_seconds": round(self.progress.seconds, 1),
            "images_seen": self.progress.step * self.config.batch_size,
            "skipped_steps": self.skipped,
        }
        computed_on = {
            **records.hardware(self.device, self.processes.count),
            "precision": "bf16" if self.compute.bf16 else "fp32",
        }
        description = records.describe(
            self.name, self.config, self.splits, self.model, self.out, progress, computed_on
        )
        write_json(self.out / "run.json", description)


def train(
    config: RunConfig,
    out: Path,
    name: str,
    resume: bool = False,
    show_progress: bool = True,
    watch: Callable[[Trainer, dict[str, Any]], None] | None = None,
) -> dict[str, Any] | None:
    """Train a run and write its folder; returns the results (None in helper processes).

    Raises:
        UserError: something that the user can fix.
        Stopped: a signal came; the run is saved, and scored as it is (`complete` is false in
            `results.json`). A second signal does without the score.
    """
    started = time.perf_counter()
    processes = Processes(config)
    with processes.main_first():  # one alone downloads
        splits = images_of(config)
    trainer = Trainer(config, splits, out, name, resume, started, watch)
    results_path = out / "results.json"
    if resume:
        trainer.resume()
        if trainer.done and results_path.exists() and read_json(results_path).get("complete", True):
            return read_json(results_path)  # finished before
    label = "scoring " if show_progress else ""
    finish = partial(trainer.finish, label) if processes.is_main else lambda complete=True: None
    with StopRequest() as stop:
        try:
            trainer.run(stop, show_progress)
        except Stopped:
            if processes.is_main:
                print("saved; scoring it as it is (a second signal leaves now)", file=sys.stderr)
            try:
                finish(complete=False)
            except UserError as error:
                print(error, file=sys.stderr)
            processes.wait_for_all()  # or torchrun would end the one that scores
            raise
    results = finish()
    processes.wait_for_all()
    processes.leave()
    return results
