"""A run folder -> its model, its data, its records; shared by the commands that read one."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rrvqlib.data.gathered import joined
from rrvqlib.data.loading import load
from rrvqlib.data.splits import SPLITS, Splits
from rrvqlib.errors import UserError
from rrvqlib.files import cannot_read, read_json, read_table
from rrvqlib.models.base import VAE
from rrvqlib.models.ready import dataset_of
from rrvqlib.models.saved import load_model, read_settings
from rrvqlib.numerics import choose_device
from rrvqlib.settings.run import RunSettings
from rrvqlib.words import say

SPLIT_NAMES = {"train": "training", "valid": "validation", "test": "test"}

# What the readers of `metrics.jsonl` rely on.
METRICS = {
    "step": int,
    "temperature": (int, float),
    "train_loss_bits_per_dim": (int, float),
    "valid_bits_per_dim": (int, float),
    "valid_bits_per_dim_se": (int, float, type(None)),
    "kl_bits_per_dim": list,
    "perplexity": (list, type(None)),
    "grad_norm": (int, float),
    "largest_layer_kl": (int, float),
    "skipped_steps": int,
}


def open_model(args: argparse.Namespace) -> VAE:
    """The run's model on the device that was asked for."""
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed {args.seed}: must be 0 or more and below {2**63:,}")
    device = choose_device(args.device)
    return load_model(args.dir).to(device)


def find_dataset(args: argparse.Namespace) -> tuple[str, str, RunSettings | None]:
    """The data set that was asked for, where it is kept, and if it is the run's own, its settings.

    A ready model's is that of its table: its run may have had another copy of the images.

    Raises:
        UserError: neither does the user name one, nor a readable `run.json`.
    """
    dataset = args.dataset or dataset_of(args.dir)
    if dataset:
        return dataset, args.data_dir or "data", None
    if not (args.dir / "run.json").exists():
        raise UserError(
            f"{args.dir / 'run.json'} is missing, which says what images; name them with --dataset"
            " NAME, such as cifar10"
        )
    settings = read_run_settings(args.dir)
    return settings.data.dataset, args.data_dir or settings.data.data_dir, settings


def open_images(
    args: argparse.Namespace, model: VAE
) -> tuple[torch.Tensor, torch.Tensor | None, str]:
    """uint8 images of the split that was asked for, their labels, and what they are.

    Labels are those of a model with classes; None for others.
    """
    shape = model.settings.image_size, model.settings.image_channels
    dataset, data_dir, settings = find_dataset(args)
    if settings is None:
        splits = with_classes(load(dataset, data_dir, *shape), model.settings.classes)
    else:
        try:
            splits = images_of(replace(settings, data=replace(settings.data, data_dir=data_dir)))
        except UserError as error:
            raise UserError(
                f"{error} (the run was trained on {dataset}; --dataset names your own copy)"
            ) from None
        check_same_images(args.dir, dataset, splits)
    tell_left_out(splits)
    return splits[args.split], splits.labels.get(args.split), f"{splits.name}, {args.split}"


def tell_left_out(splits: Splits) -> None:
    """Say on standard error what of a data set is in no split: nothing is dropped in silence."""
    if splits.left_out:
        say(f"{ascii(splits.name)[1:-1]}: left out {splits.left_out}", error=True)


def images_of(settings: RunSettings) -> Splits:
    """The images of a run; where the test images select, it trains on all others.

    Raises:
        UserError: see `rrvqlib.data.load`.
    """
    data, model = settings.data, settings.model
    splits = load(data.dataset, data.data_dir, model.image_size, model.image_channels)
    splits = with_classes(splits, model.classes)
    if settings.data.select_on == "validation":
        return splits
    labels = splits.labels
    if labels:
        labels = {
            "train": torch.cat([labels["train"], labels["valid"]]),
            "valid": labels["test"],
            "test": labels["test"],
        }
    return replace(
        splits,
        train=joined(splits.train, splits.valid),
        valid=splits.test,
        labels=labels,
        known_digest="",
        description=f"{splits.description} SELECTS ON TEST: the images for validation are trained"
        " on, and the test images are watched in their place, as in the paper.",
    )


def with_classes(splits: Splits, classes: int) -> Splits:
    """The same images with the labels that a model of so many classes is told; with none for 0.

    Raises:
        UserError: the data set has no labels, or other classes.
    """
    if not classes:
        return replace(splits, labels={})
    if not splits.labels:
        raise UserError(
            f"{splits.name} has no labels for {classes} classes; leave out --classes, or take"
            " images in folders by class, or an npz file with train_labels and test_labels"
        )
    found = max(len(splits.class_names), 1 + max(int(y.max()) for y in splits.labels.values()))
    if found != classes:
        raise UserError(f"{splits.name} has {found} classes, not {classes}; take --classes {found}")
    return splits


def label_of(directory: Path, model: VAE, asked: str) -> torch.Tensor:
    """The label, int64 (1,), of a class that was asked for by name or by number.

    Raises:
        UserError: the model has no such class.
    """
    classes = model.settings.classes
    if not classes:
        raise UserError(f"--class {asked}: the model knows no classes; leave it out")
    names: list[str] = []
    if (directory / "run.json").exists():
        found = read_table(directory / "run.json").get("class_names") or []
        names = [str(name) for name in found] if isinstance(found, list) else []
    if asked in names:
        return torch.tensor([names.index(asked)])
    if not asked.isdecimal() or int(asked) >= classes:
        named = f", or one of {', '.join(names)}" if names else ""
        raise UserError(f"--class {asked}: must be a number from 0 to {classes - 1}{named}")
    return torch.tensor([int(asked)])


def check_same_images(directory: Path, dataset: str, splits: Splits) -> None:
    """Notice that a data set holds other images than when a run was trained.

    A run older than these numbers, or without its `run.json`, is taken as it is.

    Raises:
        UserError: a split has another size, or any pixel another value.
    """
    try:
        description = read_json(directory / "run.json")
        then, pixels = dict(description["split_sizes"]), description.get("dataset_digest")
    except (UserError, TypeError, ValueError, KeyError):
        return
    now = {split: len(splits[split]) for split in SPLITS}
    if now != then:
        changed = (
            f"other images now ({sizes_in_words(now)}) than when the run in {directory} was trained"
            f" ({sizes_in_words(then)})"
        )
    elif pixels and pixels != splits.digest:
        changed = f"other pixels now than when the run in {directory} was trained"
    else:
        return
    raise UserError(
        f"{dataset} holds {changed}; bring those back, or name your images with --dataset"
    )


def sizes_in_words(sizes: dict[str, int]) -> str:
    """{"train": 45, "valid": 3, "test": 1} -> "45 training, 3 validation, 1 test images"."""
    named = (f"{sizes.get(split, 'no')} {name}" for split, name in SPLIT_NAMES.items())
    return ", ".join(named) + " images"


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, oldest first.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = directory / "metrics.jsonl"
    lines = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            for name, kind in METRICS.items():
                numbers = line[name] if isinstance(line[name], list) else []
                if not isinstance(line[name], kind) or not all(
                    isinstance(number, int | float) for number in numbers
                ):
                    raise TypeError(f"{name} is {line[name]!r}")
            lines.append(line)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {directory} the folder of a run?") from None
    except OSError as error:
        raise cannot_read(path, error) from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        where = f"line {len(lines) + 1}"
        raise UserError(f"{path} is damaged ({where}: {error}); delete that line") from None
    return lines


def read_run_settings(directory: Path) -> RunSettings:
    """The settings that a run was trained with.

    Raises:
        UserError: `run.json` is missing, damaged or of another version.
    """
    path = directory / "run.json"
    description = read_json(path)
    settings = description.get("settings") if isinstance(description, dict) else None
    return read_settings(RunSettings, settings, path)
