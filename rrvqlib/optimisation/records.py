"""What a run folder says of its run: `run.json`, `results.json`, and whether a checkpoint fits."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rrvqlib import __version__, data
from rrvqlib.configs import RunConfig
from rrvqlib.errors import UserError
from rrvqlib.models import VAE
from rrvqlib.runs import command
from rrvqlib.scoring import importance_weighted_score, score

SCORED_TRAIN_IMAGES = 2000  # the first ones, for train_bits_per_dim


def eval_batch(config: RunConfig) -> int:
    """Images at a time in evaluations: the forward pass needs far less memory than a step."""
    return 2 * config.batch_size // config.grad_accumulation


def forward_passes(splits: data.Splits, config: RunConfig) -> int:
    """Images that `final_results` sends through the model, those of the pictures included."""
    scored = len(splits.test) + min(SCORED_TRAIN_IMAGES, len(splits.train)) + 100
    return scored + config.iw_k * min(config.iw_images, len(splits.test))


def final_results(
    model: VAE, splits: data.Splits, config: RunConfig, complete: bool, label: str = ""
) -> dict[str, Any]:
    """The contents of `results.json`.

    Args:
        model: to be scored.
        splits: its images.
        config: of the run.
        complete: whether the run came to its end.
        label: of the progress bars; empty for none.

    Raises:
        UserError: a score is not a finite number.
    """
    size = eval_batch(config)

    def name(what: str) -> str:
        return f"{label}{what}" if label else ""

    test = score(model, splits.test, size, config.seed, name("test images"))
    train = score(
        model, splits.train[:SCORED_TRAIN_IMAGES], size, config.seed, name("training images")
    )
    if not math.isfinite(test["bits_per_dim"] + train["bits_per_dim"]):
        raise UserError(
            "the trained model's score is not a finite number; train anew in another --out, with a"
            " lower --lr"
        )
    bound: dict[str, Any] = {"bits_per_dim": None, "bits_per_dim_se": None, "elbo": None, "n": 0}
    if config.iw_k and config.iw_images:
        bound = importance_weighted_score(
            model,
            splits.test[: config.iw_images],
            config.iw_k,
            size,
            config.seed,
            name("importance-weighted bound"),
        )
    return {
        "complete": complete,
        "selected_on": config.select_on,
        "test_bits_per_dim": test["bits_per_dim"],
        "test_bits_per_dim_se": test["bits_per_dim_se"],
        "train_bits_per_dim": train["bits_per_dim"],
        "iw_bits_per_dim": bound["bits_per_dim"],
        "iw_bits_per_dim_se": bound["bits_per_dim_se"],
        "iw_elbo_bits_per_dim": bound["elbo"],
        "iw_k": config.iw_k,
        "iw_n": bound["n"],
        "n_test": test["n"],
        "n_train": train["n"],
        "kl_bits_per_dim": test["kl_bits_per_dim"],
        "perplexity": test["perplexity"],
        "codes_in_use": test["codes_in_use"],
    }


def describe(
    name: str,
    config: RunConfig,
    splits: data.Splits,
    model: VAE,
    out: Path,
    progress: dict[str, Any],
    computed_on: dict[str, Any],
) -> dict[str, Any]:
    """The contents of `run.json`: all that is needed to repeat the run and to judge its cost."""
    return {
        "command": command(name, config, out),
        "run": name,
        "settings": asdict(config),
        "seed": config.seed,
        "dataset": splits.name,
        "dataset_description": splits.description,
        "dataset_digest": splits.digest,
        "split_sizes": {s: len(splits[s]) for s in ("train", "valid", "test")},
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
    """What computed the numbers; no names of machines."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"
    return {"device": name, "processes": processes}


def check_same_run(stored: dict[str, Any], config: RunConfig) -> None:
    """Raise UserError where a checkpoint was made with settings that change the run."""
    free = {"data_dir", "start_from", "device", "save_every", "iw_k", "iw_images",
            "weights_dtype", "shard_mb"}  # fmt: skip

    def comparable(settings: dict[str, Any]) -> dict[str, Any]:
        kind, _, path = settings["dataset"].partition(":")  # the data may lie elsewhere now
        return json.loads(
            json.dumps({**settings, "dataset": f"{kind}:{Path(path).name}".rstrip(":")})
        )

    defaults = {f.name: f.default for f in fields(config)}  # of settings younger than the file
    stored, now = comparable(defaults | stored), comparable(asdict(config))
    for f in fields(config):
        if f.name not in free and stored[f.name] != now[f.name]:
            raise UserError(
                f"--{f.name} {now[f.name]}: the checkpoint was made with {stored[f.name]};"
                " resume with the same settings, or train anew in another --out"
            )
