"""A model in a folder: config.json and its weights."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from rrvqlib.errors import UserError
from rrvqlib.files import read_json, write_json, writing
from rrvqlib.models.from_settings import build
from rrvqlib.models.ready import find_model
from rrvqlib.models.weights import (
    INDEX,
    OURS,
    BadWeights,
    check_weights,
    read_weights,
    weight_files,
    write_weights,
)
from rrvqlib.settings.fields import SettingError, Settings, from_json
from rrvqlib.settings.flat import flattened, idle_names, written
from rrvqlib.settings.model import ModelSettings

if TYPE_CHECKING:
    from rrvqlib.models.base import VAE

CONFIG = "config.json"
FILES = [CONFIG, *OURS, INDEX]  # what a model is read from


# How a model is trained, and nothing of what it computes afterwards.
ONLY_IN_TRAINING = {"objective", "num_samples", "relaxation", "init_scale", "codebook_init"}


def read_settings(kind: type[Settings], values: Any, path: Path) -> Any:
    """Settings from the JSON of a run folder.

    Args:
        kind: ModelSettings or RunSettings.
        values: what the file holds.
        path: of the file, for the message.

    Raises:
        UserError: a setting is unknown, of the wrong type or out of range.
    """
    try:
        return from_json(kind, values)
    except SettingError as error:
        what = "model" if kind is ModelSettings else "run"
        raise UserError(
            f"{path} does not describe a {what} of this version ({error}); copy it anew, or train"
            " again"
        ) from None


def save_model(model: VAE, directory: Path, dtype: str = "float32", shard_mb: float = 5000) -> None:
    """Write config.json and the weights, each file whole or not at all.

    Args:
        model: on any device.
        directory: exists.
        dtype: of the weights in the files, float32 or float16.
        shard_mb: megabytes that a file of weights may hold; larger models become shards.

    Raises:
        UserError: the files cannot be written, or float16 cannot hold a weight.
    """
    with writing(directory):
        try:
            write_weights(model.state_dict(), directory, getattr(torch, dtype), shard_mb)
        except SafetensorError as error:  # hides the operating system's own error
            raise UserError(
                f"cannot write the weights to {directory} ({error}); free some disk space and try"
                " again (a training goes on with --resume)"
            ) from None
        except BadWeights as error:
            raise UserError(f"{error}; train anew in another --out, with a lower --lr") from None
    write_json(directory / CONFIG, asdict(model.settings))


def as_folder(directory: object) -> Path:
    """The path of a folder that a caller names.

    Raises:
        UserError: it is no path, or an empty one.
    """
    if not isinstance(directory, (str, os.PathLike)) or not os.fspath(directory):
        raise UserError(f"{directory!r} is no path; name a folder, such as 'runs/first'")
    return Path(directory)


def load_model(directory: str | Path, *, strict: bool = True) -> VAE:
    """The model of a folder, in float32, ready to evaluate.

    Args:
        directory: of a run, or of `save_pretrained`.
        strict: whether missing weights, and weights of no use, are refused.

    Raises:
        UserError: a file is missing, damaged, or does not fit the other.
    """
    directory = as_folder(directory)
    path = directory / CONFIG
    there = {name for name in (CONFIG, "run.json", "results.json") if (directory / name).exists()}
    if there == {"run.json"}:
        raise UserError(
            f"{path} is missing: the run has not come to its end yet; wait for it, or go on with"
            " rrvqlib.train --resume"
        )
    settings = read_settings(ModelSettings, read_json(path), path)
    try:
        weights = read_weights(directory)
    except BadWeights as error:
        raise UserError(f"{error}; train the run again, or copy the files anew") from None
    try:
        check_weights(weights, lambda: build(settings), strict=strict)
    except BadWeights as error:
        raise UserError(
            f"{weight_files(directory)[0]} is not of this model ({error}); copy it anew, or train"
            " again"
        ) from None
    model = build(settings)
    model.load_state_dict(weights, strict=strict)
    return model.eval()


def load_weights(model: VAE, directory: str | Path) -> None:
    """Put the weights of a finished run into a model, or into the first of its two stages.

    Args:
        model: of the same settings.
        directory: of the run, or the name of a ready model.

    Raises:
        UserError: the run is missing or damaged, or its model is another; the message names the
            settings that differ.
    """
    source = load_model(find_model(directory))
    target = model.stage_for(source.settings)
    theirs, ours = flattened(source.settings), flattened(target.settings)
    idle = set(idle_names(source.settings))  # given, they would be refused
    if target is not model:  # a first stage is frozen, so how it was trained plays no part
        idle |= ONLY_IN_TRAINING
    differing = [n for n in theirs if n not in idle and theirs[n] != ours.get(n)]
    if differing:
        flags = ", ".join(f"--{name} {written(theirs[name])}" for name in differing)
        raise UserError(
            f"--start_from {directory}: its model has other settings; give {flags}, or another run"
        )
    target.load_state_dict(source.state_dict())
