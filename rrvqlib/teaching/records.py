"""Stored runs -> scores, bits a position, curves: what trainings of hours left in their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rrvqlib.runs import read_run_settings
from rrvqlib.runs.folder import read_metrics


class Stored(NamedTuple):
    """A finished run.

    Attributes:
        score: bits per dim of the test images.
        error: the standard error of `score` over these images.
        kl: of each layer, l = 1 first, bits per dim; their sum is a part of `score`.
        position: the same in bits for one position of the layer.
    """

    score: float
    error: float
    kl: list[float]
    position: list[float]


class Course(NamedTuple):
    """A run as it went, one entry an evaluation; arrays of length T.

    Attributes:
        images: seen so far.
        score: on validation images, bits/dim.
        kl: of all layers together, bits/dim.
    """

    images: Tensor
    score: Tensor
    kl: Tensor


def results_of(folder: Path) -> dict[str, Any]:
    """The final results of a run."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def stored(folder: Path) -> Stored:
    """What the folder of a finished run says."""
    results = results_of(folder)
    model, kl = read_run_settings(folder).model, results["kl_bits_per_dim"]
    position = [model.dims * x / side**2 for x, side in zip(kl, model.pyramid, strict=True)]
    return Stored(results["test_bits_per_dim"], results["test_bits_per_dim_se"], kl, position)


def seeds_of(results: Path, run: str) -> list[Path]:
    """The finished folders of a run and of its further seeds: RUN, RUN-seed-1, ...

    Args:
        results: the folder book/results.
        run: name of the folder of seed 0.
    """
    further = sorted(results.glob(f"{run}-seed-*"), key=lambda path: int(path.name.split("-")[-1]))
    return [path for path in (results / run, *further) if (path / "results.json").exists()]


def scores_of(results: Path, run: str) -> list[float]:
    """Test scores of all stored seeds of a run, bits per dim."""
    return [stored(folder).score for folder in seeds_of(results, run)]


def course_of(folder: Path) -> Course:
    """How a run went: its evaluations during training."""
    lines = read_metrics(folder)
    return Course(
        torch.tensor([line["images_seen"] for line in lines]),
        torch.tensor([line["valid_bits_per_dim"] for line in lines], dtype=torch.float64),
        torch.tensor([sum(line["kl_bits_per_dim"]) for line in lines], dtype=torch.float64),
    )


def curve(folder: Path) -> np.ndarray:
    """A run's evaluations, (2, n): thousand images seen, bits per dim of validation images."""
    course = course_of(folder)
    return torch.stack([course.images / 1000, course.score]).numpy()


def gap_curve(folder: Path, twin: Path) -> np.ndarray:
    """How far one run is behind another at evaluations of both, (2, n) like `curve`."""
    (seen, score), (twin_seen, twin_score) = curve(folder), curve(twin)
    both, at, other = np.intersect1d(seen, twin_seen, return_indices=True)
    return np.array([both, score[at] - twin_score[other]])


def variants(file: Path) -> dict[str, list[float]]:
    """Validation scores of each variant of a file of JSON lines, bits per dim, in its order."""
    found: dict[str, list[float]] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        found.setdefault(line["variant"], []).append(line["valid_bits_per_dim"])
    return found
