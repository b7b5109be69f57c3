"""A short stay on a GPU, used to the last second: measure, choose, train, score, pack.

    python tools/sitting.py --measure speed.json --run NAME --dataset npz:cifar10.npz
    python tools/sitting.py --plan speed.json --run NAME --dataset npz:cifar10.npz \\
        --seconds 390 --out OUT

The first command times training steps, plain, recorded as a CUDA graph, and recorded with compiled
layers, at a few batch sizes, and writes what it found after each of them: it may be cut off at any
moment. The second one trains by the clock with the best of them, starts again at half the learning
rate where the loss does not fall, and from its first evaluation on leaves a model in OUT whenever
it ends: two shards of float16 weights, two pictures, the log, and records.tar with the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from rrvqlib import cli, data
from rrvqlib.errors import UserError
from rrvqlib.files import (
    UNFINISHED,
    check_writable,
    prepare_directory,
    read_table,
    write_json,
)
from rrvqlib.models import build, save_model
from rrvqlib.models.weights import INDEX, BadWeights, weight_files
from rrvqlib.numerics import true_float32, uses_bf16
from rrvqlib.optimisation.compiled import compile_layers
from rrvqlib.optimisation.cuda_graph import recorded
from rrvqlib.optimisation.processes import Processes
from rrvqlib.optimisation.signals import Stopped
from rrvqlib.optimisation.start import INIT_IMAGES, check_start
from rrvqlib.optimisation.step import Step
from rrvqlib.optimisation.trainer import Trainer
from rrvqlib.optimisation.whole_run import train
from rrvqlib.remedies import remedy
from rrvqlib.runs import RUNS
from rrvqlib.runs.records import hardware, versions
from rrvqlib.settings import RunSettings, changed
from rrvqlib.words import drop, say

BATCHES = (128, 256, 512)
ENOUGH = 0.7  # of the best rate: the smallest batch that reaches it is chosen
SHARD_MB = 15  # two of them hold 8.7 M parameters in float16
WEIGHTS_EVERY = 120.0  # seconds
FALLING_AFTER = 40.0  # seconds of training after which the loss must have fallen
ATTEMPTS = 4
LOOKS = 20  # evaluations of a training
RECORDS = ("config.json", INDEX, "run.json", "metrics.jsonl", "results.json")


class TimeIsUp(Exception):
    """A measurement has had its share of the time."""


class NotFalling(Exception):
    """The loss is not finite, or has not fallen: the learning rate is too high."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp after so many seconds, also while a compilation waits for its helpers."""

    def interrupt(*_: object) -> None:
        raise TimeIsUp(f"{seconds:.0f} seconds")

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


# Measuring.


@dataclass(frozen=True)
class Way:
    """One way of making steps."""

    batch_size: int
    recorded: bool = False
    compiled: bool = False


# The surest first; compilation may take all the time that is left.
WAYS_ON_GPU = (
    *(Way(batch, recorded=True) for batch in BATCHES),
    Way(BATCHES[1]),
    Way(BATCHES[1], recorded=True, compiled=True),
)
WAYS_ON_CPU = (Way(16), Way(32))


def rate_of(settings: RunSettings, way: Way, images: Tensor, seconds: float) -> float:
    """Training images a second, over `seconds` of steps after what comes before the first.

    Raises:
        RuntimeError: this way does not work here.
    """
    torch.manual_seed(settings.optimisation.seed)
    model = build(settings.model).to(images.device)
    model.initialise(images[:INIT_IMAGES])
    settings = changed(
        settings, batch_size=way.batch_size, grad_accumulation=1, compile=way.compiled
    )
    bf16 = uses_bf16(settings.machine.precision, images.device)
    step = Step(model, images, settings, bf16=bf16)
    step.dials.set((1e-4, 1e-4), temperature=1.0, kl_weight=1.0)
    if way.compiled:
        compile_layers(model)
    call: Callable[[], None] = step
    if way.recorded:
        call = recorded(step)
        if call is step:
            raise RuntimeError("steps cannot be recorded")
    call()
    step.statistics.skipped.item()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or not steps:
        step.feed.turn_to(steps)
        call()
        steps += 1
        if steps % 2 == 0:  # as a training's pace does, the clock must not run ahead
            step.statistics.skipped.item()
    step.statistics.skipped.item()
    return steps * way.batch_size / (time.perf_counter() - started)


def check_measurement(file: Path) -> None:
    """Raise UserError where FILE cannot be written, or holds what is no earlier measurement."""
    if file.exists():
        try:
            old = read_table(file)
        except UserError:
            old = {}
        if "rows" not in old:
            raise UserError(f"{file} exists and is no measurement; choose another FILE")
    check_writable(file)


def measure(settings: RunSettings, file: Path, deadline: float) -> None:
    """Time the ways and write what was found, after each of them.

    Raises:
        UserError: no way came to its end.
    """
    where = settings.data
    splits = data.load(where.dataset, where.data_dir, settings.model.image_size)
    device = Processes(settings.machine).device
    on_gpu = device.type == "cuda"
    images = splits.train[:4096].to(device)
    found: dict[str, Any] = {
        "versions": versions(),
        "hardware": hardware(device, 1),
        "settings": asdict(settings),
        "rows": [],
        "choice": None,
    }
    for way in WAYS_ON_GPU if on_gpu else WAYS_ON_CPU:
        begun = time.perf_counter()
        left = deadline - begun
        if left < 3:
            break
        row = asdict(way)
        try:
            with at_most(left - 1), true_float32():
                row["images_per_second"] = round(
                    rate_of(settings, way, images, min(2, left / 8)), 1
                )
        except (TimeIsUp, RuntimeError, UserError, OSError) as error:
            row["failed"] = " ".join(f"{type(error).__name__} {error}".split())[:300]
        if on_gpu:
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            torch.cuda.reset_peak_memory_stats()
        row["seconds"] = round(time.perf_counter() - begun, 1)
        found["rows"].append(row)
        found["choice"] = choose(settings, found["rows"])
        write_json(file, found)
        say(json.dumps(row), error=True)
    if not found["choice"]:
        raise UserError("no way of making steps came to its end; give more --seconds")
    print("choice:", json.dumps(found["choice"]))


def choose(settings: RunSettings, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The smallest batch that reaches most of the best rate, its fastest way, its learning rate."""
    worked = [row for row in rows if "images_per_second" in row]
    if not worked:
        return None
    best = max(row["images_per_second"] for row in worked)
    enough = [row for row in worked if row["images_per_second"] >= ENOUGH * best]
    batch = min(row["batch_size"] for row in enough)
    row = max(
        (row for row in enough if row["batch_size"] == batch),
        key=lambda row: row["images_per_second"],
    )
    # The root of the ratio of batches, at most doubled.
    lr = settings.schedule.lr * min(2.0, math.sqrt(batch / settings.optimisation.batch_size))
    return {**row, "lr": round(lr, 6)}


KINDS = {"batch_size": int, "recorded": bool, "compiled": bool, "lr": float}  # of a choice


def read_choice(file: Path, settings: RunSettings) -> dict[str, Any] | None:
    """What `--measure` chose; None where it has left no file, or has not come to a choice.

    Args:
        file: that it wrote.
        settings: of the run that is going to be trained.

    Raises:
        UserError: the file is no measurement, or one of another model or learning rate.
    """
    if not file.exists():
        return None
    found = read_table(file)
    choice, theirs = found.get("choice"), found.get("settings")
    if "rows" not in found or not isinstance(theirs, dict):
        raise UserError(f"{file} is no measurement; give the FILE that --measure wrote")
    if not choice:
        return None
    for name, kind in KINDS.items():
        if type(choice.get(name)) is not kind:
            raise UserError(f"{file} has no {name} of the right kind in its choice; measure again")
    mine = json.loads(json.dumps(asdict(settings)))
    if any(theirs.get(part) != mine[part] for part in ("model", "schedule")):
        raise UserError(f"{file} was measured with another run's settings; measure with this --run")
    return {name: choice[name] for name in KINDS}


# Training.


class Watch:
    """After every evaluation: is the loss falling? Are weights due?

    Args:
        out: for the weights.
        seconds: of the whole training.
    """

    def __init__(self, out: Path, seconds: float):
        self.out = out
        self.patience = min(FALLING_AFTER, seconds / 2)
        self.every = min(WEIGHTS_EVERY, seconds / 4)
        self.began, self.first, self.written = time.perf_counter(), math.nan, -math.inf

    def __call__(self, trainer: Trainer, line: dict[str, Any]) -> None:
        """Raises NotFalling."""
        now, loss = time.perf_counter(), line["train_loss_bits_per_dim"]
        shown = ("step", "seconds", "valid_bits_per_dim", "grad_norm_max", "skipped_steps")
        print(" ".join(f"{name} {line[name]:.6g}" for name in shown), flush=True)
        if not math.isfinite(loss + line["valid_bits_per_dim"]):
            raise NotFalling(f"the loss is {loss}")
        if math.isnan(self.first):
            self.first = loss
        elif now - self.began > self.patience and loss > self.first - 0.05:
            raise NotFalling(f"the loss is {loss:.2f}, and was {self.first:.2f} at first")
        if trainer.done or now - self.written > self.every:
            shard_mb = trainer.settings.machine.shard_mb
            save_model(trainer.evaluated, trainer.out, "float16", shard_mb)
            pack(trainer.out, self.out)
            self.written = now


def pack(run: Path, out: Path) -> None:
    """Put what travels into OUT: shards, pictures, and the records in one tar.

    All is copied first and then renamed in a row, so that what lies there belongs together. A run
    folder without weights leaves what an earlier attempt has packed.
    """
    try:
        weights = weight_files(run)
    except BadWeights:
        return
    pictures = [run / name for name in ("samples.png", "reconstructions.png")]
    with tempfile.TemporaryDirectory(dir=out, prefix=UNFINISHED) as folder:
        ready = Path(folder)
        for path in (*weights, *filter(Path.exists, pictures)):
            shutil.copyfile(path, ready / path.name)
        with tarfile.open(ready / "records.tar", "w") as archive:
            for path in (run / name for name in RECORDS if (run / name).exists()):
                archive.add(path, arcname=path.name)
        for path in list(ready.iterdir()):
            os.replace(path, out / path.name)
    for path in out.glob("model*.safetensors"):
        if path.name not in {file.name for file in weights}:
            path.unlink()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal in: what is packed now is the last."""
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    old = {signum: signal.signal(signum, signal.SIG_IGN) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def sit(settings: RunSettings, name: str, out: Path, deadline: float) -> dict[str, Any]:
    """Train by the clock until the deadline; again at half the rate where the loss does not fall.

    Args:
        settings: of the run.
        name: of the named run.
        out: for what travels; the run folders are temporary.
        deadline: `time.perf_counter()` by which all must be done.

    Raises:
        Stopped: a signal came; what there was is packed, scored unless a second one came.
        UserError: the loss did not fall at any rate.
    """
    for attempt in range(ATTEMPTS):
        left = deadline - time.perf_counter()
        lr, batch = settings.schedule.lr / 2**attempt, settings.optimisation.batch_size
        now = changed(settings, seconds=round(left, 1), lr=lr)
        print(f"attempt {attempt}: lr {lr}, batch {batch}, {left:.0f} s", flush=True)
        run = Path(tempfile.mkdtemp())
        try:
            results = train(now, run, name, show_progress=False, watch=Watch(out, left))
            with undisturbed():
                pack(run, out)
            return results or {}
        except NotFalling as error:
            print(f"{error}: again at half the rate", flush=True)
        except BaseException:  # a signal, or an error: what there is travels
            with undisturbed():
                pack(run, out)
            raise
        finally:
            shutil.rmtree(run)
    raise UserError(f"the loss did not fall at 1/{2 ** (ATTEMPTS - 1)} of the rate either")


class Both:
    """A console and a log; where the console is gone, the log alone."""

    def __init__(self, console: TextIO, log: TextIO):
        self.console, self.log = console, log

    def write(self, text: str) -> int:
        """To both, at once: a kill loses nothing."""
        with suppress(OSError):  # a full disk: there is still the console
            self.log.write(text)
            self.log.flush()
        try:
            self.console.write(text)
            self.console.flush()
        except (AttributeError, OSError, ValueError):  # there may be none
            drop(self.console)
        return len(text)

    def flush(self) -> None:
        """Both are flushed as they are written."""

    def isatty(self) -> bool:
        """No progress bars."""
        return False


@contextmanager
def logged(out: Path) -> Iterator[None]:
    """Copy to OUT/log.txt what is printed; it is removed where an error left nothing else."""
    path = out / "log.txt"
    try:
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as log:
            console, errors = Both(sys.stdout, log), Both(sys.stderr, log)
            with redirect_stdout(console), redirect_stderr(errors):  # type: ignore[type-var]
                try:
                    yield
                except (UserError, OSError, MemoryError, RuntimeError) as error:
                    log.write(f"error: {remedy(error) or error}\n")
                    raise
    except UserError:
        if list(out.iterdir()) == [path]:
            path.unlink()  # the command, put right, may use the folder
        raise


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--measure",
        type=cli.path_of("--measure"),
        metavar="FILE",
        help="time steps, write FILE (an earlier measurement is replaced)",
    )
    what.add_argument(
        "--plan",
        type=cli.path_of("--plan"),
        metavar="FILE",
        help="train as FILE says; without it as the run does",
    )
    parser.add_argument("--run", default="cifar10-l32-c64", help="named run (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="for all of it (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=cli.path_of("--out"),
        metavar="DIR",
        help="of --plan: a new folder for what it leaves",
    )
    parser.add_argument(
        "--start_from",
        type=partial(cli.not_empty, "--start_from"),
        metavar="DIR",
        help="of --plan: go on from this run's weights",
    )
    parser.add_argument(
        "--dataset",
        type=partial(cli.not_empty, "--dataset"),
        help="as in rrvqlib.train (default: the run's)",
    )
    parser.add_argument(
        "--data_dir",
        type=partial(cli.not_empty, "--data_dir"),
        default="data",
        help="as in rrvqlib.train",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    started = time.perf_counter()
    args = make_parser().parse_args(argv)
    if args.run not in RUNS:
        raise UserError(f"--run {args.run}: no such run; choose one of {', '.join(RUNS)}")
    if not 5 <= args.seconds < 1e6:
        raise UserError(f"--seconds {args.seconds:g}: must be from 5 to a million")
    for name in ("out", "start_from"):
        if args.measure and getattr(args, name):
            raise UserError(f"--{name}: is of --plan; leave it out of --measure")
    settings = RUNS[args.run].settings
    settings = changed(
        settings,
        dataset=args.dataset or settings.data.dataset,
        data_dir=args.data_dir,
        precision="auto",
        compile=False,
        weights_dtype="float16",
        shard_mb=SHARD_MB,
        start_from=args.start_from or "",
    )
    deadline = started + args.seconds
    check_start(settings)
    if args.measure:
        check_measurement(args.measure)
        measure(settings, args.measure, deadline)
        return
    if args.out is None:
        raise UserError("--out DIR is missing: name a folder for what the sitting leaves")
    choice = read_choice(args.plan, settings)
    if choice:
        settings = changed(
            settings,
            batch_size=choice["batch_size"],
            lr=choice["lr"],
            compile=choice["compiled"],
            cuda_graphs="auto" if choice["recorded"] else "false",
        )
    steps = settings.schedule.steps
    # A checkpoint is too large to travel.
    settings = changed(settings, eval_every=max(1, steps // LOOKS), save_every=steps)
    prepare_directory(args.out)
    if any(args.out.iterdir()):
        raise UserError(f"{args.out} is not empty; choose another --out")
    with logged(args.out):
        if not choice:
            print(f"{args.plan} has no choice: training as the run's settings say")
        try:
            results = sit(settings, args.run, args.out, deadline)
        except Stopped as stopped:
            print(f"stopped at step {stopped.step}; what there was is in {args.out}")
            raise SystemExit(stopped.code) from None
        print(
            f"test {results['test_bits_per_dim']:.4f} bits/dim (standard error"
            f" {results['test_bits_per_dim_se']:.4f}, {results['n_test']} images)"
        )


if __name__ == "__main__":
    cli.run(main)
