"""Tables 1 and G.1 as the paper prints them, and our short runs of the same kinds beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple


class Printed(NamedTuple):
    """A row of Table 1, bits per dim.

    Attributes:
        test: score on test images.
        train: score on training images, where the paper gives one.
        ours: what the names of our runs of this kind end in; empty if there is none.
    """

    test: float
    train: float | None
    ours: str


TABLE_1 = {
    "CIFAR-10": {
        "VIMCO": Printed(5.14, None, "vimco"),
        "relaxed VQ-VAE, one layer": Printed(4.77, 4.87, "rvq"),
        "FouST, L = 4": Printed(4.16, None, ""),
        "FouST, L = 1": Printed(4.02, None, ""),
        "RRVQ-VAE, L = 32": Printed(3.94, 3.81, "rrvq"),
        "Spatial-VAE, L = 32": Printed(3.55, 3.49, "spatial"),
    },
    "SVHN": {
        "relaxed VQ-VAE, one layer": Printed(3.73, 4.17, "rvq"),
        "RRVQ-VAE, L = 32": Printed(2.30, 2.52, "rrvq"),
        "Spatial-VAE, L = 32": Printed(1.94, 2.07, "spatial"),
    },
    "CelebA": {
        "relaxed VQ-VAE, one layer": Printed(5.31, 5.31, "rvq"),
        "RRVQ-VAE, L = 32": Printed(2.97, 2.97, "rrvq"),
        "Spatial-VAE, L = 32": Printed(2.54, 2.58, "spatial"),
    },
}
# Bits per dim of training images and of test images; a cell that is missing is "unstable".
TABLE_G1 = {
    "CIFAR-10": {
        "direct, σ = 1": (5.00, 5.05),
        "embedding, σ = 1": (5.06, 5.11),
        "direct, σ learnt": (5.08, 5.10),
        "RRVQ": (4.40, 4.65),
    },
    "SVHN": {
        "direct, σ = 1": (3.44, 3.32),
        "embedding, σ = 1": (3.51, 3.41),
        "RRVQ": (3.02, 2.96),
    },
}
# The runs on CIFAR-10 are those of chapter 10, which have its names.
CHAPTER_10 = {
    "vimco": "vimco",
    "rvq": "straight-through",
    "rrvq": "rrvq-l4",
    "spatial": "spatial-l4",
}
DATA_NAMES = {"CIFAR-10": "cifar10", "SVHN": "svhn", "CelebA": "celeba"}


def folders(dataset: str, kind: str) -> list[str]:
    """Names of our runs of a row, one for each seed.

    Args:
        dataset: a key of `TABLE_1`.
        kind: `Printed.ours` of the row.
    """
    name = f"table-1-{DATA_NAMES[dataset]}-{kind}"
    first = f"rival-{CHAPTER_10[kind]}" if dataset == "CIFAR-10" else name
    return [first] if kind == "vimco" else [first, f"{name}-seed-1"]


def scores(results: Path, dataset: str, kind: str, key: str = "test_bits_per_dim") -> list[float]:
    """A number of `results.json`, of every run of a row.

    Args:
        results: folder of the stored runs.
        dataset: a key of `TABLE_1`.
        kind: `Printed.ours` of the row.
        key: the number's name.
    """
    paths = [results / name / "results.json" for name in folders(dataset, kind)]
    return [json.loads(path.read_text(encoding="utf-8"))[key] for path in paths]
