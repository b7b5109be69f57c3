"""What a run says of itself: a line for every evaluation, `run.json`, `results.json`, pictures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rrvqlib.errors import UserError
from rrvqlib.files import write_json
from rrvqlib.models.saved import save_model
from rrvqlib.optimisation.log import Events
from rrvqlib.optimisation.schedules import temperature_at
from rrvqlib.runs import pictures, records
from rrvqlib.runs.scoring import score
from rrvqlib.settings.flat import takes

if TYPE_CHECKING:
    from rrvqlib.optimisation.trainer import Trainer

# What finishing is held to take, as a multiple of what a few batches say, and at least (seconds).
RESERVE_FACTOR, RESERVE_FLOOR = 1.3, 2.0


def evaluation(run: Trainer) -> dict[str, Any]:
    """A line of `metrics.jsonl`: validation score and what the steps since the last one saw."""
    settings, progress = run.settings, run.progress
    some, labels = slice(settings.evaluation.eval_images or None), run.splits.labels.get("valid")
    images, labels = run.splits.valid[some], None if labels is None else labels[some]
    size, seed = records.eval_batch(settings), settings.optimisation.seed
    with run.uncompiled():
        valid = score(run.evaluated, images, size, seed, labels=labels)
    seen = run.compute.statistics.read()
    return {
        "step": progress.step,
        "images_seen": progress.step * settings.optimisation.batch_size,
        "seconds": round(progress.seconds, 1),
        "lr": run.lr,
        "temperature": temperature_at(progress.position, settings.schedule),
        "train_loss_bits_per_dim": seen["loss"],
        "valid_bits_per_dim": valid["bits_per_dim"],
        "valid_bits_per_dim_se": valid["bits_per_dim_se"],
        "kl_bits_per_dim": valid["kl_bits_per_dim"],
        "perplexity": valid["perplexity"],
        "prior_entropy_bits": valid["prior_entropy_bits"],
        "grad_norm": seen["norm"],
        "grad_norm_max": seen["largest_norm"],
        "largest_layer_kl": seen["largest_kl"],
        "skipped_steps": run.skipped,
    }


def show_pictures(run: Trainer, events: Events) -> None:
    """Samples and reconstructions of validation images as they are now, for TensorBoard."""
    with run.uncompiled():
        try:
            shown = pictures.run_pictures(
                run.evaluated,
                run.splits.valid,
                run.settings.optimisation.seed,
                run.splits.labels.get("valid"),
                pictures.ON_THE_WAY,
            )
        except UserError:  # a model that paints no numbers yet may still learn to
            return
    events.show(run.progress.step, shown)


def finishing_seconds(run: Trainer) -> float:
    """How long scores and pictures will take, measured on a batch."""
    size = min(records.eval_batch(run.settings), len(run.splits.train))
    images, labels, seconds = run.splits.train[:size], run.splits.labels.get("train"), []
    labels = None if labels is None else labels[:size]
    with run.uncompiled():
        for _ in range(3):  # the first one warms up
            started = time.perf_counter()
            score(run.evaluated, images, size, labels=labels)
            seconds.append(time.perf_counter() - started)
    expected = min(seconds) / size * records.forward_passes(run.splits, run.settings)
    return RESERVE_FACTOR * expected + RESERVE_FLOOR


def finish(run: Trainer, label: str = "", *, complete: bool = True) -> dict[str, Any]:
    """Write model, results and pictures of a trained run; see `leave_weights`, `leave_score`."""
    leave_weights(run)
    return leave_score(run, label, complete=complete)


def leave_weights(run: Trainer) -> None:
    """Write the averaged weights, the model, and take back the score of earlier ones.

    Raises:
        UserError: every step was skipped, so there is nothing new in them; or they cannot be
            written.
    """
    settings, steps = run.settings, run.progress.step
    if steps and run.skipped == steps:
        hotter = " or a higher --temperature" if takes(settings, "temperature") else ""
        raise UserError(
            f"all {steps} steps were skipped for their gradients: nothing was learnt. Train anew in"
            f" another --out, with a lower --lr{hotter}"
        )
    (run.out / "results.json").unlink(missing_ok=True)
    save_model(run.evaluated, run.out, settings.machine.weights_dtype, settings.machine.shard_mb)
    run.progress.seconds = run.clock.spent
    describe(run)


def leave_score(run: Trainer, label: str = "", *, complete: bool = True) -> dict[str, Any]:
    """Write results and pictures of the weights that `leave_weights` wrote; return the results.

    Args:
        run: trained.
        label: of the progress bars; empty for none.
        complete: whether the run came to its end.

    Raises:
        UserError: a score is no number, or something cannot be written.
    """
    settings, model, steps = run.settings, run.evaluated, run.progress.step
    with run.uncompiled():
        results = records.final_results(model, run.splits, settings, label, complete=complete)
        shown = pictures.write_run_pictures(
            model,
            run.splits.test,
            run.out,
            settings.optimisation.seed,
            run.splits.labels.get("test"),
        )
    run.progress.seconds = run.clock.spent
    describe(run)
    write_json(run.out / "results.json", results)  # last: it says that the run has a score
    Events(run.out / "tensorboard", steps).show(steps, shown)
    return results


def describe(run: Trainer) -> None:
    """Write `run.json`."""
    progress = {
        "wall_seconds": round(run.progress.seconds, 1),
        "images_seen": run.progress.step * run.settings.optimisation.batch_size,
        "skipped_steps": run.skipped,
    }
    computed_on = {
        **records.hardware(run.device, run.processes.count),
        "precision": "bf16" if run.compute.bf16 else "fp32",
    }
    description = records.describe(
        run.name, run.settings, run.splits, run.model, run.out, progress, computed_on
    )
    write_json(run.out / "run.json", description)
