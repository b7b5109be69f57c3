"""What a run folder says of its run: `run.json`, `results.json`, and whether a checkpoint fits."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rrvqlib import __version__
from rrvqlib.data.splits import SPLITS, Splits
from rrvqlib.errors import UserError
from rrvqlib.models.base import VAE
from rrvqlib.numerics import device_name
from rrvqlib.runs import command
from rrvqlib.runs.pictures import RUN_IMAGES, whole_rows
from rrvqlib.runs.scoring import importance_weighted_score, likeness, score, score_over_classes
from rrvqlib.settings.fields import from_json
from rrvqlib.settings.flat import NOTHING, flattened, written
from rrvqlib.settings.run import RunSettings

SCORED_TRAIN_IMAGES = 2000  # the first ones, for train_bits_per_dim
COMPARED_IMAGES = 500  # the first test images, for PSNR and SSIM
UNTOLD_IMAGES = 1000  # the first test images, for the score of a model that is not told the class


def eval_batch(settings: RunSettings) -> int:
    """Images at a time in evaluations: the forward pass needs far less memory than a step."""
    return 2 * settings.optimisation.batch_size // settings.machine.grad_accumulation


def forward_passes(splits: Splits, settings: RunSettings) -> int:
    """Images that go through the model when a run ends: for `final_results` and the pictures."""
    scored = len(splits.test) + min(SCORED_TRAIN_IMAGES, len(splits.train))
    shown = whole_rows(settings.model.classes, RUN_IMAGES) + min(RUN_IMAGES // 2, len(splits.test))
    shown += min(COMPARED_IMAGES, len(splits.test))
    iw = settings.evaluation
    untold = settings.model.classes * min(UNTOLD_IMAGES, len(splits.test))
    return scored + shown + untold + iw.iw_k * min(iw.iw_images, len(splits.test))


def final_results(
    model: VAE, splits: Splits, settings: RunSettings, label: str = "", *, complete: bool
) -> dict[str, Any]:
    """The contents of `results.json`.

    Args:
        model: to be scored.
        splits: its images.
        settings: of the run.
        complete: whether the run came to its end.
        label: of the progress bars; empty for none.

    Raises:
        UserError: a score is not a finite number.
    """
    size, seed, iw = eval_batch(settings), settings.optimisation.seed, settings.evaluation

    def name(what: str) -> str:
        return f"{label}{what}" if label else ""

    def first(split: str, count: int | None = None) -> dict[str, Any]:
        labels = splits.labels.get(split)
        return {
            "images": splits[split][:count],
            "labels": None if labels is None else labels[:count],
            "batch_size": size,
            "seed": seed,
        }

    test = score(model, **first("test"), title=name("test images"))
    train = score(model, **first("train", SCORED_TRAIN_IMAGES), title=name("training images"))
    if not math.isfinite(test["bits_per_dim"] + train["bits_per_dim"]):
        raise UserError(
            "the trained model's score is not a finite number; train anew in another --out, with a"
            " lower --lr"
        )
    bound: dict[str, Any] = {"bits_per_dim": None, "bits_per_dim_se": None, "elbo": None, "n": 0}
    if iw.iw_k and iw.iw_images:
        bound = importance_weighted_score(
            model,
            **first("test", iw.iw_images),
            k=iw.iw_k,
            title=name("importance-weighted bound"),
        )
    alike = likeness(model, **first("test", COMPARED_IMAGES), title=name("reconstructions"))
    untold = {}
    if settings.model.classes:
        untold = score_over_classes(
            model, **first("test", UNTOLD_IMAGES), title=name("test images, class untold")
        )
    return {
        "complete": complete,
        "selected_on": settings.data.select_on,
        "test_bits_per_dim": test["bits_per_dim"],
        "test_bits_per_dim_se": test["bits_per_dim_se"],
        "train_bits_per_dim": train["bits_per_dim"],
        "iw_bits_per_dim": bound["bits_per_dim"],
        "iw_bits_per_dim_se": bound["bits_per_dim_se"],
        "iw_elbo_bits_per_dim": bound["elbo"],
        "iw_k": iw.iw_k,
        "iw_n": bound["n"],
        "n_test": test["n"],
        "n_train": train["n"],
        "kl_bits_per_dim": test["kl_bits_per_dim"],
        "perplexity": test["perplexity"],
        "codes_in_use": test["codes_in_use"],
        **alike,
        **untold,
    }


def describe(
    name: str,
    settings: RunSettings,
    splits: Splits,
    model: VAE,
    out: Path,
    progress: dict[str, Any],
    computed_on: dict[str, Any],
) -> dict[str, Any]:
    """The contents of `run.json`: all that is needed to repeat the run and to judge its cost."""
    return {
        "command": command(name, settings, out),
        "run": name,
        "settings": asdict(settings),
        "seed": settings.optimisation.seed,
        "dataset": splits.name,
        "dataset_description": splits.description,
        "dataset_digest": splits.digest,
        "split_sizes": {s: len(splits[s]) for s in SPLITS},
        **({"class_names": splits.class_names} if settings.model.classes else {}),
        "versions": versions(),
        "hardware": computed_on,
        **progress,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def versions() -> dict[str, str]:
    """Of what computed the numbers."""
    found = {
        "rrvqlib": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    for package in ("numpy", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # installed in a way that leaves no record
            continue
    return found


def hardware(device: torch.device, processes: int) -> dict[str, Any]:
    """What computed the numbers."""
    return {"device": device_name(device), "processes": processes}


# Settings that may change when a run is resumed: they do not change its weights.
FREE = {
    "data_dir",
    "device",
    "save_every",
    "iw_k",
    "iw_images",
    "weights_dtype",
    "shard_mb",
}
# Those of them that say what a finished run holds -> how else to get it.
SAID_AT_THE_END = {
    "iw_k": "score it with rrvq evaluate --iw_k",
    "iw_images": "score it with rrvq evaluate --iw_images",
    "weights_dtype": "write them elsewhere with rrvqlib.models.save_model",
    "shard_mb": "write them elsewhere with rrvqlib.models.save_model",
}


def check_same_run(stored: Any, settings: RunSettings) -> None:
    """Make sure that a checkpoint fits the run.

    Args:
        stored: the settings in the checkpoint, as in `run.json`.
        settings: of the run that is to be resumed.

    Raises:
        UserError: it was made with settings that change the run.
    """
    then, now = flattened(from_json(RunSettings, stored)), flattened(settings)
    for values in (then, now):
        kind, _, path = values["dataset"].partition(":")  # the data may lie elsewhere now
        values["dataset"] = f"{kind}:{Path(path).name}".rstrip(":")
        if values["start_from"]:  # as may the run that it began with
            values["start_from"] = Path(os.path.abspath(values["start_from"])).name
    for name in now | then:  # in the order of the flags
        if name not in FREE and then.get(name) != now.get(name):
            made_with = (written(then[name]) or NOTHING) if name in then else "no such setting"
            asked = written(now.get(name)) or "not given"
            raise UserError(
                f"--{name} {asked}: the checkpoint was made with {made_with};"
                " resume with the same settings, or train anew in another --out"
            )


def check_finished_run(then: RunSettings, settings: RunSettings) -> None:
    """Make sure that nothing is asked for that a finished run, resumed, would not do.

    Args:
        then: of the run as it was finished.
        settings: that it is resumed with.

    Raises:
        UserError: they ask for another bound, or for other files of weights.
    """
    has, wanted = flattened(then), flattened(settings)
    for name, remedy in SAID_AT_THE_END.items():
        if has[name] != wanted[name]:
            raise UserError(
                f"--{name} {written(wanted[name])}: the run is finished already, with"
                f" {written(has[name])}; resume with the same settings, or {remedy}"
            )
