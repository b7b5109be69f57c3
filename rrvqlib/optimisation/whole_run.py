"""A whole run: images, training, scores; what `python -m rrvqlib.train` calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rrvqlib.errors import UserError
from rrvqlib.files import read_table
from rrvqlib.optimisation import reports
from rrvqlib.optimisation.processes import Processes
from rrvqlib.optimisation.signals import Stopped, StopRequest
from rrvqlib.optimisation.trainer import Trainer
from rrvqlib.runs.folder import images_of, read_run_settings, tell_left_out
from rrvqlib.runs.records import check_finished_run
from rrvqlib.settings.run import RunSettings
from rrvqlib.words import say


def results_of(path: Path) -> dict[str, Any] | None:
    """What a `results.json` holds; nothing where there is none, or a damaged one."""
    try:
        return read_table(path) if path.exists() else None
    except UserError:
        return None


def finished(results: dict[str, Any] | None) -> bool:
    """Whether results are of a whole training, and have what the command tells of them."""
    names = "test_bits_per_dim", "train_bits_per_dim", "n_test"
    if not results or not results.get("complete", True):
        return False
    numbers = [results.get(name) for name in names]
    numbers.append(results.get("test_bits_per_dim_se") or 0)  # one image has none
    return all(isinstance(number, (int, float)) for number in numbers)


def train(
    settings: RunSettings,
    out: Path,
    name: str,
    *,
    resume: bool = False,
    show_progress: bool = True,
    watch: Callable[[Trainer, dict[str, Any]], None] | None = None,
) -> dict[str, Any] | None:
    """Train a run and write its folder; returns the results (None in helper processes).

    Args:
        settings: of the run.
        out: the run folder, which exists.
        name: of the run, for `run.json`.
        resume: whether to go on from the folder's checkpoint.
        show_progress: whether to show progress bars, on a terminal.
        watch: see `Trainer`.

    Raises:
        UserError: something that the user can fix.
        Stopped: a signal came; the run is saved, and scored as it is (`complete` is false in
            `results.json` unless all steps were made). A second signal does without the score.
    """
    started = time.perf_counter()
    processes = Processes(settings.machine)
    with processes.main_first():  # one alone downloads
        splits = images_of(settings)
    if processes.is_main:
        tell_left_out(splits)
    trainer = Trainer(settings, splits, out, name, resumed=resume, started=started, watch=watch)
    results_path = out / "results.json"
    if resume:
        trainer.resume()
        found = results_of(results_path) if trainer.done else None
        if finished(found):
            if (out / "run.json").exists():
                check_finished_run(read_run_settings(out), settings)
            return found  # finished before
    results = carry_out(trainer, show_progress=show_progress)
    processes.leave()
    return results


def carry_out(trainer: Trainer, *, show_progress: bool) -> dict[str, Any] | None:
    """Train to the end, or until a signal comes; then write model and scores; see `train`."""
    processes = trainer.processes
    label = "scoring " if show_progress else ""
    stopped, results = None, None
    with StopRequest() as stop:
        try:
            trainer.run(stop, show_progress=show_progress)
        except Stopped as signalled:
            stopped = signalled
        step = trainer.progress.step
        try:
            if processes.is_main:
                reports.leave_weights(trainer)
            stop.saved_at(step)
            if processes.is_main and not stop.hurried:
                if stopped:
                    say("saved; scoring it as it is (a signal now leaves at once)", error=True)
                results = reports.leave_score(trainer, label, complete=trainer.done)
        except UserError as error:
            if not stopped:
                raise
            say(str(error), error=True)
        processes.wait_for_all()  # or torchrun would end the one that scores
        if stopped or stop.signum:  # or between the last step and the weights
            raise stopped or Stopped(stop.signum, step)
    return results
