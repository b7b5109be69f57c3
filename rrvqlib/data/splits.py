"""What every data set comes as: uint8 images in three splits, always the same ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from rrvqlib.errors import UserError

SPLITS = ("train", "valid", "test")
DEFAULT_SIZE = 32  # pixels a side, of the data sets that come in more than one size


@dataclass(frozen=True)
class Wanted:
    """What images are asked for; None takes what there is.

    Attributes:
        image_size: H = W in pixels.
        channels: c, 3 (red, green, blue) or 1 (grey).
        decoded: folder that large data sets are decoded into; None keeps all in memory.
    """

    image_size: int | None = None
    channels: int | None = None
    decoded: Path | None = None


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of a data set, uint8 (N, c, H, W) with H = W, N differing between splits."""

    train: Tensor
    valid: Tensor
    test: Tensor
    name: str  # as given to `load`, files and folders without the path to them
    description: str  # one sentence: what the images are, how they were split
    left_out: str = ""  # what lies there and is in no split, such as "2 x .csv file"
    known_digest: str = ""  # `digest`, where it need not be computed
    labels: dict[str, Tensor] = field(default_factory=dict)  # split -> int64 (N,), if known
    class_names: tuple[str, ...] = ()  # what label 0 stands for, label 1, ...

    @property
    def image_size(self) -> int:
        """H = W, in pixels."""
        return self.train.shape[-1]

    @property
    def image_channels(self) -> int:
        """3 (red, green and blue) or 1 (grey)."""
        return self.train.shape[1]

    @cached_property
    def digest(self) -> str:
        """Of the pixels of all splits and their sizes, 32 hexadecimal digits (1 s for 1 GB)."""
        return self.known_digest or digest_of({split: self[split] for split in SPLITS})

    def __getitem__(self, split: str) -> Tensor:
        """The images of one split, uint8 (N, c, H, W).

        Raises:
            UserError: there is no split of this name.
        """
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
        return getattr(self, split)


def digest_of(images: dict[str, Tensor]) -> str:
    """Of uint8 images (N, c, H, W) by their split, and of their numbers: 32 hexadecimal digits."""
    sha = hashlib.blake2b(digest_size=16)
    for split in SPLITS:
        sha.update(f"{split}{tuple(images[split].shape)}".encode())
        for part in images[split].split(4096):
            sha.update(part.contiguous().numpy().data)
    return sha.hexdigest()


def check_image_size(name: str, actual: int, wanted: Wanted) -> None:
    """Images are never resized behind the reader's back: it would change the score.

    Args:
        name: of the data set or its file, for the message.
        actual: H = W of its images, in pixels.
        wanted: what the user asked for.

    Raises:
        UserError: the two differ.
    """
    size = wanted.image_size
    if size is not None and size != actual:
        raise UserError(
            f"the images of {name} are {actual}x{actual}, not {size}x{size}, and are not "
            f"resized; take images of that size, or image_size {actual}"
        )


def check_channels(name: str, actual: int, wanted: Wanted) -> None:
    """The same of channels: a grey picture is no colour picture to a model.

    Args:
        name: of the data set or its file, for the message.
        actual: channels of its images.
        wanted: what the user asked for.

    Raises:
        UserError: the two differ.
    """
    if wanted.channels is not None and wanted.channels != actual:
        kind = {1: "grey", 3: "in colour"}[actual]
        raise UserError(f"the images of {name} are {kind}; take image_channels {actual}")


def tenth_of(count: int) -> int:
    """How many of so many training images are for validation where a data set does not say."""
    return max(1, count // 10)


def last_tenth(images: Tensor) -> tuple[Tensor, Tensor]:
    """Training images (N, c, H, W) in official order -> the first nine tenths, the last tenth."""
    count = tenth_of(len(images))
    return images[:-count], images[-count:]


def official_labels(train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Labels (N,) of official sets, of which the training images lose their last tenth."""
    train, valid = last_tenth(train.long())
    return {"train": train, "valid": valid, "test": test.long()}
