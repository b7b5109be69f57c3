"""Images in a NumPy file, each split an array; nothing in it is ever unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.gathered import Rows, gather, key_of
from rrvqlib.data.npz_file import (
    checksums,
    member_name,
    pieces_of,
    read_header,
    read_headers,
    reading,
)
from rrvqlib.data.registry import MAX_CLASSES
from rrvqlib.data.splits import (
    SPLITS,
    Splits,
    Wanted,
    check_channels,
    check_image_size,
    tenth_of,
)
from rrvqlib.errors import UserError


def load_npz(place: Path, wanted: Wanted) -> Splits:
    """The uint8 arrays train_images, test_images and, if there is one, valid_images of a file.

    Without valid_images the last tenth of the training images is for validation: by their
    positions in the official set, where the file gives them as train_index, else by their order.
    Labels are read where there are train_labels and test_labels (and valid_labels, if there are
    valid_images), and what they stand for where there is an array class_names of strings.

    Args:
        place: the file; its images are (N, H, W, c) or (N, c, H, W), c 3 or 1, or (N, H, W), its
            labels whole numbers (N,) from 0.
        wanted: must be what is in the file.

    Raises:
        UserError: there is no such file, it cannot be read without unpickling, its arrays are
            not as above, or there is no room for its pixels.
    """
    headers = check_npz(place, wanted)
    count = len(headers["train_images"])
    sizes = {split: len(headers.get(f"{split}_images", ())) for split in SPLITS}
    order = None  # of the training images, first those that stay
    how = "with the validation images of the file"
    if not sizes["valid"]:
        how = "validation images are the last tenth of its training images, in official order"
        if count < 2:
            raise UserError(f"{place} has one training image and no valid_images; add some")
        sizes["valid"] = tenth_of(count)
        if "train_index" in headers:
            with reading(place) as file:
                index = file["train_index"]
            order, sizes["valid"] = _official_order(place, count, index)
        sizes["train"] = count - sizes["valid"]

    def fill(rows: Rows) -> dict[str, str]:
        at = 0
        with reading(place) as file:
            for split in SPLITS:
                name = f"{split}_images"
                if name not in headers:
                    continue
                places = np.arange(at, at + len(headers[name]))
                if split == "train" and order is not None:
                    places[order] = places.copy()
                _put_array(place, file, name, rows, places)
                at += len(places)
        return {}

    labels = _read_labels(place, headers)
    if labels and order is not None:
        labels["train"] = labels["train"][order]
    if labels and "valid" not in labels:
        both = labels["train"].split([sizes["train"], sizes["valid"]])
        labels["train"], labels["valid"] = both
    shape = _as_nchw(place, "train_images", headers["train_images"]).shape[1:]
    key = key_of("npz", shape, checksums(place))
    found = gather(wanted.decoded, key, sizes, shape, fill)
    return Splits(
        train=found.images["train"],
        valid=found.images["valid"],
        test=found.images["test"],
        name=f"npz:{place.name}",
        description=f"The images of the file {place.name}; {how}.",
        known_digest=found.digest,
        labels=labels,
        class_names=_read_class_names(place, headers, labels),
    )


def check_npz(place: Path, wanted: Wanted) -> dict[str, np.ndarray]:
    """The arrays of a file without their values: of zeros that take no memory.

    Raises:
        UserError: where `load_npz` would, as far as the headers of the arrays show it.
    """
    headers = read_headers(place)
    forms = {
        name.removesuffix("_images"): _as_nchw(place, name, array).shape[1::2]
        for name, array in headers.items()
        if name.endswith("_images")
    }
    _check_forms(place, forms, wanted)
    return headers


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


def _read_labels(path: Path, headers: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Split -> int64 (N,), where all splits of the file have labels; else nothing.

    Raises:
        UserError: they are no whole numbers from 0, one for each image.
    """
    labels = {}
    splits = [split for split in SPLITS if f"{split}_images" in headers]
    if not all(f"{split}_labels" in headers for split in splits):
        return labels
    for split in splits:
        name, count = f"{split}_labels", len(headers[f"{split}_images"])
        there = headers[name]
        if there.dtype.kind not in "iu" or there.shape != (count,):
            raise UserError(
                f"{name} of {path} is {there.dtype} {there.shape}; it must hold one whole number"
                f" per image, ({count},)"
            )
        with reading(path) as file:
            values = file[name]
        if values.min() < 0 or values.max() >= MAX_CLASSES:
            raise UserError(f"{name} of {path} must be from 0 to {MAX_CLASSES - 1}; correct it")
        labels[split] = torch.from_numpy(values.astype(np.int64))
    return labels


def _read_class_names(
    path: Path, headers: dict[str, np.ndarray], labels: dict[str, Tensor]
) -> tuple[str, ...]:
    """What label 0 stands for, label 1, and so on; nothing where labels or names are missing.

    Raises:
        UserError: they are not different strings, one for each label.
    """
    if not labels or "class_names" not in headers:
        return ()
    there, needed = headers["class_names"], 1 + max(int(of.max()) for of in labels.values())
    if there.dtype.kind != "U" or there.ndim != 1 or len(there) < needed:
        raise UserError(
            f"class_names of {path} is {there.dtype} {there.shape}; it must hold one string for"
            f" each label, {needed} or more"
        )
    with reading(path) as file:
        names = tuple(map(str, file["class_names"]))
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"class_names of {path} must differ, and none may be empty; correct them")
    return names


def _put_array(
    path: Path, file: np.lib.npyio.NpzFile, name: str, rows: Rows, places: np.ndarray
) -> None:
    """Put the images of an array where they belong, read piece by piece.

    Args:
        path: of the file, for messages.
        file: the open file.
        name: of the array.
        rows: of all splits.
        places: of its images in them.
    """
    from tqdm import tqdm

    assert file.zip is not None
    with file.zip.open(member_name(file, name)) as member:
        shape, fortran, _ = read_header(member)
        if fortran:  # an image is scattered over all of the array
            values = np.frombuffer(member.read(), np.uint8)
            pieces = [values.reshape(shape, order="F")]
        else:
            pieces = pieces_of(member, shape)
        done = 0
        title = f"reading {name.removesuffix('_images')}"
        with tqdm(total=shape[0], desc=title, unit="image", leave=False, disable=None) as bar:
            for piece in pieces:
                _put(rows, places[done : done + len(piece)], _as_nchw(path, name, piece))
                done += len(piece)
                bar.update(len(piece))


def _put(rows: Rows, places: np.ndarray, images: np.ndarray) -> None:
    """Put images (n, c, H, W) at places (n,), neighbours together."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    for some in np.split(np.arange(len(places)), breaks):
        rows.put(int(places[some[0]]), images[some[0] : some[-1] + 1])


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


def _official_order(path: Path, count: int, index: np.ndarray) -> tuple[np.ndarray, int]:
    """Sort by the position in the official set, of which the file may lack some images.

    Its size is taken to be the next multiple of 1,000 above the largest position, so that
    validation starts at 45,000 for CIFAR-10 whichever images are missing.

    Returns:
        the order (count,), and how many images at its end are for validation.
    """
    if index.shape != (count,) or index.dtype.kind not in "iu":
        raise UserError(
            f"train_index of {path} is {index.dtype} {index.shape}; it must hold one integer per "
            f"training image, ({count},)"
        )
    if index.min() < 0 or len(np.unique(index)) < count:
        raise UserError(f"train_index of {path} must hold distinct positions from 0; correct it")
    official = -(-(int(index.max()) + 1) // 1000) * 1000
    order = np.argsort(index)
    valid = int((index >= official - official // 10).sum())
    if valid in (0, count):
        raise UserError(
            f"by train_index of {path} the last tenth of {official} positions holds "
            f"{valid} of {count} images; add valid_images, or leave out "
            "train_index"
        )
    return order, valid
