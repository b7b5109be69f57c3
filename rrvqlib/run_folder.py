"""A run folder -> its model, its data, its records; shared by the commands that read one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from rrvqlib import data
from rrvqlib.checkpoint import load_model, read_json
from rrvqlib.configs import RunConfig
from rrvqlib.errors import UserError
from rrvqlib.models import VAE


def open_model(args: argparse.Namespace) -> VAE:
    """The run's model on the device that was asked for."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
    use_cuda = args.device != "cpu" and torch.cuda.is_available()
    return load_model(args.dir).to("cuda" if use_cuda else "cpu")


def open_images(args: argparse.Namespace, model: VAE) -> tuple[torch.Tensor, str]:
    """uint8 images of the split that was asked for, and what they are."""
    dataset = args.dataset or read_config(args.dir).dataset
    splits = data.load(dataset, args.data_dir, model.config.image_size)
    return splits[args.split], f"{splits.name}, {args.split}"


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, oldest first.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = directory / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {directory} the folder of a run?") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); delete its last line") from None


def read_config(directory: Path) -> RunConfig:
    """The settings that a run was trained with.

    Raises:
        UserError: `run.json` is missing, damaged or of another version.
    """
    try:
        return RunConfig(**read_json(directory / "run.json")["settings"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{directory / 'run.json'} does not describe a run ({error}); name the data with"
            " --dataset, or train again"
        ) from None
