"""MNIST and Fashion-MNIST, downloaded when first used; nothing is unpickled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.fetching import fetching
from rrvqlib.data.splits import Splits, Wanted, check_image_size, last_tenth, official_labels
from rrvqlib.errors import UserError

MNIST_FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
MNIST_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
MNIST_SIZE = 28  # pixels a side
FASHION_CLASSES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def check_28x28(place: Path, wanted: Wanted) -> None:
    """Raise UserError where MNIST and Fashion-MNIST do not come in a size."""
    check_image_size("mnist and fashion-mnist", MNIST_SIZE, wanted)


def load_mnist(place: Path, wanted: Wanted) -> Splits:
    """Handwritten digits, 54,000, 6,000 and 10,000 grey images of 28x28.

    Args:
        place: folder that the download is kept in; made if there is none.
        wanted: image_size is 28 or None.

    Raises:
        UserError: another size, no download, or a damaged file.
    """
    return _load_grey("mnist", "MNIST", tuple("0123456789"), place, wanted)


def load_fashion_mnist(place: Path, wanted: Wanted) -> Splits:
    """Articles of clothing, 54,000, 6,000 and 10,000 grey images of 28x28.

    Args: as `load_mnist`, and what it raises, too.
    """
    return _load_grey("fashion-mnist", "FashionMNIST", FASHION_CLASSES, place, wanted)


def _load_grey(
    name: str, kind: str, classes: tuple[str, ...], place: Path, wanted: Wanted
) -> Splits:
    """A data set in MNIST's format, where torchvision's class of the name `kind` keeps it."""
    check_28x28(place, wanted)
    folder = place / kind / "raw"
    # Not torchvision's class itself: it unpickles what an older version may have left there.
    files = [*MNIST_FILES.values(), *MNIST_LABELS.values()]
    if not all((folder / file).is_file() for file in files):
        archives = ", ".join(f"{file}.gz" for file in files)
        with fetching(kind, folder, archives):
            from rrvqlib.data.torchvision_import import torchvision

            published = getattr(torchvision.datasets, kind)
            utils = import_module(".utils", torchvision.datasets.__name__)
            for archive, md5 in published.resources:
                if archive.removesuffix(".gz") in files:
                    _fetch_from_any(utils, published.mirrors, folder, archive, md5)
    images = {
        split: _read_idx(folder / file, MNIST_SIZE, MNIST_SIZE).unsqueeze(1)
        for split, file in MNIST_FILES.items()
    }
    labels = {split: _read_idx(folder / file) for split, file in MNIST_LABELS.items()}
    for split, file in MNIST_LABELS.items():
        if len(labels[split]) != len(images[split]) or labels[split].max() >= len(classes):
            raise UserError(f"{folder / file} is damaged; remove it and run again")
    train, valid = last_tenth(images["train"])
    return Splits(
        train=train,
        valid=valid,
        test=images["test"],
        labels=official_labels(labels["train"], labels["test"]),
        class_names=classes,
        name=name,
        description=f"{kind}; validation images are the last tenth of the training images in "
        "official order.",
    )


def _fetch_from_any(
    utils: ModuleType, mirrors: Sequence[str], folder: Path, archive: str, md5: str
) -> None:
    """Download an archive and unpack it, from the first of several addresses that has it."""
    for mirror in mirrors:
        try:
            utils.download_and_extract_archive(f"{mirror}{archive}", folder, md5=md5)
            return
        except OSError:  # with the error of urllib among its kinds
            if mirror == mirrors[-1]:
                raise


def _read_idx(path: Path, *sides: int) -> Tensor:
    """A file of MNIST's format: its head, the numbers of items and their sides, bytes (N, *sides).

    The head is 0, 0, 8 (for bytes) and how many dimensions follow, each a number of four bytes.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error
    head = 8 + 4 * len(sides)
    magic, count, *found = data[:head].view(">i4").tolist() if len(data) >= head else (0, 0)
    size = head + count * math.prod(sides)
    if magic != 0x0801 + len(sides) or found != list(sides) or not count or len(data) != size:
        raise UserError(f"{path} is damaged; remove it and run again")
    return torch.from_numpy(data[head:].reshape(count, *sides))
