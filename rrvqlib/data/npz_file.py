"""The arrays of a NumPy archive (.npz), read piece by piece; nothing in it is ever unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from rrvqlib.errors import UserError

PIECE = 2**24  # bytes read at a time
ARRAYS = (
    *("train_images", "valid_images", "test_images"),
    *("train_labels", "valid_labels", "test_labels"),
    "train_index",
    "class_names",
)


def member_name(file: np.lib.npyio.NpzFile, name: str) -> str:
    """What an array is called in the archive."""
    assert file.zip is not None
    return name if name in file.zip.namelist() else f"{name}.npy"


def read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index runs fastest, and type of an array whose values follow.

    Raises:
        ValueError: it is none, or one of Python objects.
    """
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    return shape, fortran, dtype


def read_headers(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that the data set is made of, as zeros; the needed ones are there."""
    headers = {}
    with reading(path) as file:
        assert file.zip is not None
        names = set(file.files)
        for name in ARRAYS:
            if name in names:
                stored = file.zip.getinfo(member_name(file, name))
                with file.zip.open(stored) as member:
                    shape, _, dtype = read_header(member)
                    if member.tell() + math.prod(shape) * dtype.itemsize > stored.file_size:
                        raise EOFError(f"{name} ends early")
                headers[name] = np.broadcast_to(np.zeros((), dtype), shape)
    for name in ("train_images", "test_images"):
        if name not in headers:
            raise UserError(
                f"{path} holds no array {name} (it holds: {', '.join(sorted(names)) or 'nothing'});"
                " save uint8 arrays train_images and test_images, (N, H, W, 3)"
            )
    return headers


def checksums(path: Path) -> list[tuple[str, int, int]]:
    """Name, checksum and size of each part of a file, from the table at its end."""
    with zipfile.ZipFile(path) as file:
        return [(part.filename, part.CRC, part.file_size) for part in file.infolist()]


@contextmanager
def reading(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The open file; whatever a damaged or strange one raises becomes a UserError."""
    if not path.exists():
        raise UserError(f"there is no file {path}; check the path after npz:")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise UserError(f"{path} is a single array; save named arrays with numpy.savez")
        with file:
            yield file
    # What np.load raises on a damaged file depends on where the damage lies.
    except (
        EOFError,
        MemoryError,
        OSError,
        RuntimeError,  # encrypted; and its kind NotImplementedError, unknown compression
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        # NumPy's own advice here is to unpickle the file.
        reason = "it may hold pickled objects" if "pickle" in str(error) else error
        raise UserError(
            f"cannot read {path} ({reason}); it must be an undamaged NumPy .npz file of plain "
            "arrays: copy it or make it again"
        ) from error


def pieces_of(member: IO[bytes], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The values of a uint8 array of this shape, some megabytes at a time."""
    image = math.prod(shape[1:])
    at_once = max(1, PIECE // image)
    for first in range(0, shape[0], at_once):
        count = min(at_once, shape[0] - first)
        data = member.read(count * image)
        if len(data) < count * image:
            raise EOFError("an array ends early")
        yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:])
    member.read()  # the checksum is compared at the end
