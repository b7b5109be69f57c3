"""Dataset name -> uint8 images (N, c, H, W) in three fixed splits.

`load("photos")` and `load("swatches")` need no download. No data file is ever unpickled.
"""

# Not `load.py`: once imported, a module of that name would hide the function in `rrvqlib.data`.

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from rrvqlib.data.pixels import MAX_PIXELS
from rrvqlib.data.registry import DATASETS, DataSet
from rrvqlib.data.splits import Splits, Wanted, check_channels
from rrvqlib.errors import UserError


def load(
    dataset: str,
    data_dir: str | Path = "data",
    image_size: int | None = None,
    image_channels: int | None = None,
) -> Splits:
    """Load a data set with its fixed splits; the same call gives the same tensors each time.

    Args:
        dataset: a key of `DATASETS`, with a path in place of PATH.
        data_dir: folder that downloads are kept in, and in its folder `decoded` the pixels of data
            sets that are larger than 256 MB; made when there is something to keep.
        image_size: H = W in pixels; None is the data set's own size. Only `swatches`, `photos`
            and `folder:PATH` come in more than one size; no other data set is resized.
        image_channels: 3 (colour) or 1 (grey); None is the data set's own number, for
            `folder:PATH` 3. A folder's pictures are made grey where 1 is asked for; other data
            sets come as they are.

    Raises:
        UserError: no such data set, size or number of channels, or its files are missing, damaged
            or of the wrong kind; the message says what to do.
    """
    wanted = Wanted(image_size, image_channels, Path(data_dir) / "decoded")
    entry, place = _found(dataset, data_dir, wanted)
    return _function(entry.loader)(place, wanted)


def check(
    dataset: str,
    data_dir: str | Path = "data",
    image_size: int | None = None,
    image_channels: int | None = None,
) -> None:
    """What of `load` takes no time: nothing is downloaded, and no pixel is read.

    Raises:
        UserError: `load` would raise it, too.
    """
    wanted = Wanted(image_size, image_channels, Path(data_dir) / "decoded")
    entry, place = _found(dataset, data_dir, wanted)
    if entry.checker:
        _function(entry.checker)(place, wanted)


def _found(dataset: str, data_dir: str | Path, wanted: Wanted) -> tuple[DataSet, Path]:
    """The line of the table, and where the images are."""
    image_size, channels = wanted.image_size, wanted.channels
    if channels not in (None, 1, 3):
        raise UserError(f"image_channels is {channels}; it must be 3 (colour) or 1 (grey)")
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size is {image_size}; it must be at least 1")
    if image_size is not None and image_size**2 > MAX_PIXELS:
        raise UserError(f"image_size is {image_size}; more than {MAX_PIXELS} pixels an image")
    name = _name_of(dataset)
    if name not in DATASETS:
        raise UserError(f"there is no data set {dataset!r}; choose one of {', '.join(DATASETS)}")
    place = path_of(dataset)
    if place is None:
        if name.endswith(":PATH"):
            raise UserError(f"{dataset!r} names no path; write {name}")
        place = Path(data_dir)
    entry = DATASETS[name]
    if entry.channels is not None:
        check_channels(dataset, entry.channels, wanted)
    return entry, place


def _function(path: str) -> Callable[[Path, Wanted], Any]:
    """What "module:function" names; this is when the module is imported."""
    module, _, function = path.partition(":")
    return getattr(import_module(module), function)


def path_of(dataset: str) -> Path | None:
    """PATH of `folder:PATH` and `npz:PATH`; None for the data sets that have a name alone.

    Raises:
        UserError: it begins with ~ and the name of a user whom the system does not know.
    """
    _, _, path = dataset.partition(":")
    if _name_of(dataset) not in DATASETS or not path:
        return None
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user; write the path out") from None


def _name_of(dataset: str) -> str:
    """The key that `DATASETS` would have it under: `npz:PATH` for `npz:images.npz`."""
    kind, colon, _ = dataset.partition(":")
    return f"{kind}:PATH" if colon else kind
