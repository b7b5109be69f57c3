"""All images of a data set in one array: in memory or, if they are many, in a file that is mapped.

What is mapped takes no memory of the process: the system reads pages of the file when an image
is looked at, shares them between processes, and takes them back when memory is short.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.splits import SPLITS, digest_of
from rrvqlib.errors import UserError
from rrvqlib.files import UNFINISHED, read_json, way_out, write_json

IN_MEMORY = 2**28  # bytes; larger data sets are decoded once into a file
FORMAT = 1  # goes into the names of those files: another way of decoding, another number


class Gathered(NamedTuple):
    """The images of a data set.

    Attributes:
        images: split -> uint8 (N, c, H, W), the splits being neighbours in one array.
        told: what the function that decoded them had to say.
        digest: of all pixels, where it is known without reading them; else empty.
    """

    images: dict[str, Tensor]
    told: dict[str, Any]
    digest: str = ""


class Rows:
    """Where decoded images are put, in any order.

    Args:
        shape: (N, c, H, W) of all splits together.
        file: a binary file that is open for writing; None for memory.
        path: what the file will be called.
    """

    def __init__(self, shape: tuple[int, ...], file: Any = None, path: Path | None = None):
        self.shape, self.file, self.path = shape, file, path
        self.start = file.tell() if file else 0
        self.array = None if file else np.empty(shape, np.uint8)

    def put(self, at: int, images: np.ndarray) -> None:
        """Make uint8 images (n, c, H, W) those from position `at` on."""
        if images.shape[1:] != self.shape[1:] or not 0 <= at <= self.shape[0] - len(images):
            raise ValueError(f"{images.shape} at {at} of {self.shape}")
        if self.array is not None:
            self.array[at : at + len(images)] = images
            return
        # Not through a mapping: on a full disk that would end the process without a word.
        with _writing(self.path):
            self.file.seek(self.start + at * math.prod(self.shape[1:]))
            self.file.write(np.ascontiguousarray(images).data)


def key_of(*parts: object) -> str:
    """A name for what is decoded from sources that `parts` tell apart, 32 hexadecimal digits."""
    return hashlib.blake2b(repr((FORMAT, *parts)).encode(), digest_size=16).hexdigest()


def gather(
    folder: Path | None,
    key: str,
    sizes: dict[str, int],
    shape: tuple[int, int, int],
    fill: Callable[[Rows], dict[str, Any]],
    in_memory: int | None = None,
) -> Gathered:
    """Decode images, or map those that were decoded before.

    Args:
        folder: of the files that are mapped; None keeps all in memory.
        key: names the images in it; see `key_of`.
        sizes: split -> how many images it has.
        shape: (c, H, W) of an image.
        fill: puts the images into the rows, first those for training, then those for validation,
            then those for testing; returns what is worth telling (JSON).
        in_memory: in bytes, `IN_MEMORY` where it is left out; what is not larger is not written.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    whole = (sum(sizes.values()), *shape)
    if folder is None or math.prod(whole) <= (IN_MEMORY if in_memory is None else in_memory):
        try:
            rows = Rows(whole)
        except (MemoryError, ValueError):  # the latter where no machine has so much
            raise UserError(
                f"{whole[0]} images of {math.prod(shape)} bytes do not fit in memory; take fewer"
            ) from None
        told = fill(rows)
        assert rows.array is not None
        return Gathered(cut(torch.from_numpy(rows.array), sizes), told)
    found = mapped(folder, key)
    if found is None:
        with _new_rows(folder, key, whole) as rows:
            told = fill(rows)
        images = cut(_map(folder / f"{key}.npy"), sizes)
        record = {"sizes": sizes, "digest": digest_of(images), "told": told}
        write_json(folder / f"{key}.json", record)  # last: with it the file counts as whole
        found = mapped(folder, key)
        assert found is not None
    return found


def mapped(folder: Path, key: str) -> Gathered | None:
    """Images that were decoded before; None where there are none, or their files are damaged."""
    try:
        record = read_json(folder / f"{key}.json")
        sizes = {split: int(record["sizes"][split]) for split in SPLITS}
        images = _map(folder / f"{key}.npy")
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != sum(sizes.values()):
            return None
        return Gathered(cut(images, sizes), dict(record["told"]), str(record["digest"]))
    except (UserError, OSError, EOFError, ValueError, TypeError, KeyError):
        return None


def cut(images: Tensor, sizes: dict[str, int]) -> dict[str, Tensor]:
    """The splits of one array (N, c, H, W), without a copy."""
    return dict(zip(SPLITS, images.split([sizes[split] for split in SPLITS]), strict=True))


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Two arrays (N, c, H, W), one after the other; no copy where they are neighbours already."""
    first_end = first.data_ptr() + first.numel()
    same = first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    if same and first_end == second.data_ptr() and first.is_contiguous():
        shape = (len(first) + len(second), *first.shape[1:])
        return first.as_strided(shape, first.stride(), first.storage_offset())
    return torch.cat([first, second])


def _map(path: Path) -> Tensor:
    """The array of a .npy file; pages are copied if someone writes to them, never the file."""
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    """Turn the operating system's errors into one that names the remedy."""
    try:
        yield
    except OSError as error:
        remedy = way_out(error, "choose another folder with --data_dir")
        raise UserError(f"cannot write {path} ({error.strerror or error}); {remedy}") from None


@contextmanager
def _new_rows(folder: Path, key: str, shape: tuple[int, ...]) -> Iterator[Rows]:
    """Rows in a .npy file, which has its own name only when it is whole."""
    path = folder / f"{key}.npy"
    partial = folder / f"{UNFINISHED}{key}-{os.getpid()}"
    layout = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with _writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(partial, "wb")  # noqa: SIM115  closed below
    try:
        with file:
            with _writing(path):
                np.lib.format.write_array_header_1_0(file, layout)
                start = file.tell()
                file.truncate(start + math.prod(shape))
                file.seek(start)
            yield Rows(shape, file, path)
            with _writing(path):
                file.flush()
        with _writing(path):
            os.replace(partial, path)
    finally:
        file.close()
        partial.unlink(missing_ok=True)
