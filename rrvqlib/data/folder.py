"""Images below a folder, split by the folders in it or by the order of their names."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.reader import SUFFIXES, Picture, read_picture
from rrvqlib.data.splits import DEFAULT_SIZE, SPLITS, Splits
from rrvqlib.errors import UserError

# Names of a folder of validation images.
VALID_FOLDERS = ("valid", "val", "validation")


def load_folder(place: Path, image_size: int | None) -> Splits:
    """The images below a folder, cut to their central square and resized.

    Args:
        place: the folder; with folders train, test and, if there is one, valid in it these are
            the splits, else its images are split in order of name.
        image_size: H = W in pixels; None is 32.

    Raises:
        UserError: there is no such folder, it lacks images or one of the splits, or one of the
            images cannot be read.
    """
    side = DEFAULT_SIZE if image_size is None else image_size
    if not place.is_dir():
        raise UserError(f"there is no folder {place}; check the path after folder:")
    left_out: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    files, how = _split(place, left_out)
    images = {split: _decode_all(files[split], side, split, changed) for split in SPLITS}
    description = (
        f"The images of the folder {place.name}, cut to their central square and "
        f"resized to {side}x{side}; {how}."
    )
    for begins, counts in (("Left out", left_out), ("Not kept", changed)):
        if counts:
            listed = ", ".join(f"{n} x {what}" for what, n in counts.most_common(5))
            more = len(counts) - 5
            description += f" {begins}: {listed}{f' and {more} other kinds' if more > 0 else ''}."
    return Splits(**images, name=f"folder:{place.name}", description=description)


def _split(path: Path, left_out: Counter[str]) -> tuple[dict[str, list[Path]], str]:
    """The files of each split, and half a sentence on how they were split."""
    valid = [name for name in VALID_FOLDERS if (path / name).is_dir()]
    if len(valid) > 1:
        raise UserError(f"{path} has folders {' and '.join(valid)}; keep one of them")
    folders = {split: path / split for split in SPLITS if (path / split).is_dir()}
    if valid:
        folders["valid"] = path / valid[0]
    if folders:
        for split in ("train", "test"):
            if split not in folders:
                there = next(iter(folders.values())).name
                raise UserError(
                    f"{path} has a folder {there} and none named {split}; add it, or rename "
                    "the folders to let the images be split for you"
                )
        files = {split: _image_files(folder, left_out) for split, folder in folders.items()}
        used = {folder.name for folder in folders.values()}
        for other in path.iterdir():
            if other.name not in used and not other.name.startswith("."):
                left_out[f"{other.name}{'/' if other.is_dir() else ''}"] += 1
        how = "split by its folders " + ", ".join(f.name for f in folders.values())
    else:
        found = _image_files(path, left_out)
        if len(found) < 10:
            raise UserError(
                f"{path} holds {len(found)} images; splitting them takes at least 10, so add some"
            )
        # Every tenth, not the last tenth: files sort by class, and each split needs every class.
        files = {
            "train": [file for i, file in enumerate(found) if i % 10 < 8],
            "valid": found[8::10],
            "test": found[9::10],
        }
        how = "of every ten in order of name the ninth is for validation, the tenth for testing"
    if "valid" not in files:
        if len(files["train"]) < 10:
            raise UserError(f"{path / 'train'} holds fewer than 10 images; add a folder valid")
        files["valid"] = files["train"][9::10]
        files["train"] = [file for i, file in enumerate(files["train"]) if i % 10 < 9]
        how = "split by its folders train and test, every tenth training image for validation"
    return files, how


def _image_files(path: Path, left_out: Counter[str]) -> list[Path]:
    """The image files below a folder, sorted by their path; hidden ones and folders are none.

    Links are followed, each folder once on its way down. Files that are no images are counted in
    `left_out` by their endings.
    """
    files = []
    # Folders above the one at hand, to tell a link that leads back up.
    above: dict[str, frozenset] = {str(path): frozenset()}
    for folder, folders, names in os.walk(path, followlinks=True):
        status = os.stat(folder)
        here = above.pop(folder) | {(status.st_dev, status.st_ino)}
        kept = []
        for name in folders:
            status = os.stat(os.path.join(folder, name))
            if name.startswith(".") or (status.st_dev, status.st_ino) in here:
                continue
            kept.append(name)
            above[os.path.join(folder, name)] = here
        folders[:] = kept
        for name in names:
            file = Path(folder, name)
            if name.startswith("."):
                continue
            if file.suffix.lower() not in SUFFIXES:
                left_out[f"{file.suffix.lower()} file" if file.suffix else "file"] += 1
            elif not file.is_file():
                left_out["link that leads nowhere"] += 1
            else:
                files.append(file)
    if not files:
        raise UserError(f"{path} holds no image; put {', '.join(sorted(SUFFIXES))} files in")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def _decode_all(files: list[Path], image_size: int, split: str, changed: Counter[str]) -> Tensor:
    """Image files -> (N, 3, image_size, image_size); what they lose is counted in `changed`."""
    from tqdm import tqdm

    images = np.empty((len(files), image_size, image_size, 3), dtype=np.uint8)
    bar = tqdm(files, desc=f"reading {split}", unit="image", leave=False, disable=None)
    for index, file in enumerate(bar):
        picture = read_picture(file)
        images[index] = _fit(picture, image_size)
        changed.update(picture.lost)
        changed.update(what for what in picture.dropped if what == "its colour profile")
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _fit(picture: Picture, image_size: int) -> np.ndarray:
    """The central square of a picture, resized: uint8 (image_size, image_size, 3)."""
    from PIL import Image, ImageOps

    size = (image_size, image_size)
    return np.asarray(
        ImageOps.fit(Image.fromarray(picture.pixels), size, Image.Resampling.BILINEAR)
    )
