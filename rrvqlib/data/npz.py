"""Images in a NumPy file, each split an array; nothing in it is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.splits import Splits, Wanted, check_channels, check_image_size, last_tenth
from rrvqlib.errors import UserError


def load_npz(place: Path, wanted: Wanted) -> Splits:
    """The uint8 arrays train_images, test_images and, if there is one, valid_images of a file.

    Without valid_images the last tenth of the training images is for validation: by their
    positions in the official set, where the file gives them as train_index, else by their order.

    Args:
        place: the file; its arrays are (N, H, W, c) or (N, c, H, W), c 3 or 1, or (N, H, W).
        wanted: must be what is in the file.

    Raises:
        UserError: there is no such file, it cannot be read without unpickling, or its arrays
            are not as above.
    """
    arrays = _read_arrays(place)
    index = arrays.pop("train_index", None)
    images = {
        name.removesuffix("_images"): _channels_first(place, name, array)
        for name, array in arrays.items()
    }
    _check_forms(place, {split: tensor.shape[1::2] for split, tensor in images.items()}, wanted)
    how = "with the validation images of the file"
    if "valid" not in images:
        how = "validation images are the last tenth of its training images, in official order"
        if len(images["train"]) < 2:
            raise UserError(f"{place} has one training image and no valid_images; add some")
        if index is None:
            images["train"], images["valid"] = last_tenth(images["train"])
        else:
            images["train"], images["valid"] = _last_official_tenth(place, images["train"], index)
    return Splits(
        train=images["train"],
        valid=images["valid"],
        test=images["test"],
        name=f"npz:{place.name}",
        description=f"The images of the file {place.name}; {how}.",
    )


def check_npz(place: Path, wanted: Wanted) -> None:
    """Raise UserError where `load_npz` would, as far as the headers of the arrays show it."""
    arrays = _read_arrays(place, _read_header)
    arrays.pop("train_index", None)
    forms = {}
    for name, array in arrays.items():
        forms[name.removesuffix("_images")] = _as_nchw(place, name, array).shape[1::2]
    _check_forms(place, forms, wanted)


def _check_forms(place: Path, forms: dict[str, tuple[int, ...]], wanted: Wanted) -> None:
    """Make sure that the images of all splits, (c, W) each, are as they were asked for."""
    if len({side for _, side in forms.values()}) > 1:
        listed = ", ".join(f"{split} {side}x{side}" for split, (_, side) in forms.items())
        raise UserError(f"the splits of {place} differ in image size ({listed}); save one size")
    if len({channels for channels, _ in forms.values()}) > 1:
        listed = ", ".join(f"{split} {channels}" for split, (channels, _) in forms.items())
        raise UserError(f"the splits of {place} differ in channels ({listed}); save one number")
    channels, side = forms["train"]
    check_image_size(str(place), side, wanted)
    check_channels(str(place), channels, wanted)


def _read_whole(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """An array of a file."""
    return file[name]


def _read_header(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """The same array in shape and type, of zeros that take no memory."""
    assert file.zip is not None
    with file.zip.open(name if name in file.zip.namelist() else f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    return np.broadcast_to(np.zeros((), dtype), shape)


def _read_arrays(
    path: Path, read: Callable[[np.lib.npyio.NpzFile, str], np.ndarray] = _read_whole
) -> dict[str, np.ndarray]:
    """The arrays of a file that the data set is made of, by name; the needed ones are there.

    Args:
        path: of the file.
        read: an array of it.
    """
    if not path.exists():
        raise UserError(f"there is no file {path}; check the path after npz:")
    arrays: dict[str, np.ndarray] = {}
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise UserError(f"{path} is a single array; save named arrays with numpy.savez")
        with file:
            names = set(file.files)
            for name in ("train_images", "valid_images", "test_images", "train_index"):
                if name in names:
                    arrays[name] = read(file, name)
                    if not isinstance(arrays[name], np.ndarray):
                        raise ValueError(f"{name} is no array")
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
    for name in ("train_images", "test_images"):
        if name not in arrays:
            raise UserError(
                f"{path} holds no array {name} (it holds: {', '.join(sorted(names)) or 'nothing'});"
                " save uint8 arrays train_images and test_images, (N, H, W, 3)"
            )
    return arrays


def _as_nchw(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """A view (N, c, H, W) of an array of images, whose channels may stand last or be left out."""
    if array.dtype != np.uint8:
        raise UserError(
            f"{name} of {path} has dtype {array.dtype}; save pixels 0 to 255 as numpy.uint8"
        )
    images = array
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and (images.shape[3] == 3 or images.shape[1] not in (1, 3)):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        raise UserError(
            f"{name} of {path} has shape {array.shape}; save square images as (N, H, W, 3), or"
            " (N, H, W) if they are grey"
        )
    if 0 in images.shape:
        raise UserError(f"{name} of {path} is empty, shape {array.shape}; leave no array empty")
    return images


def _channels_first(path: Path, name: str, array: np.ndarray) -> Tensor:
    """uint8 (N, H, W, c), (N, c, H, W) or (N, H, W) -> Tensor (N, c, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(_as_nchw(path, name, array)))


def _last_official_tenth(path: Path, images: Tensor, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """Split by the position in the official set, of which the file may lack some images.

    Its size is taken to be the next multiple of 1,000 above the largest position, so that
    validation starts at 45,000 for CIFAR-10 whichever images are missing.
    """
    if index.shape != (len(images),) or index.dtype.kind not in "iu":
        raise UserError(
            f"train_index of {path} is {index.dtype} {index.shape}; it must hold one integer per "
            f"training image, ({len(images)},)"
        )
    if index.min() < 0 or len(np.unique(index)) < len(index):
        raise UserError(f"train_index of {path} must hold distinct positions from 0; correct it")
    official = -(-(int(index.max()) + 1) // 1000) * 1000
    images, index = images[np.argsort(index)], np.sort(index)
    first = int(np.searchsorted(index, official - official // 10))
    if first in (0, len(images)):
        raise UserError(
            f"by train_index of {path} the last tenth of {official} positions holds "
            f"{len(images) - first} of {len(images)} images; add valid_images, or leave out "
            "train_index"
        )
    return images[:first], images[first:]
