"""Images below a folder, split by the folders in it or by the order of their names."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.gathered import Rows, gather, key_of
from rrvqlib.data.reader import SUFFIXES, Picture, read_picture
from rrvqlib.data.splits import DEFAULT_SIZE, SPLITS, Splits, Wanted
from rrvqlib.errors import UserError
from rrvqlib.words import number_of

# Names of a split's folder, in small letters or capitals.
FOLDERS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}


def load_folder(place: Path, wanted: Wanted) -> Splits:
    """The images below a folder, cut to their central square and resized.

    Args:
        place: the folder; with folders train, test and, if there is one, valid in it these are
            the splits, else its images are split in order of name.
        wanted: image_size is H = W in pixels, None is 32; channels 1 makes pictures grey, by
            their luminance.

    Raises:
        UserError: there is no such folder, it lacks images or one of the splits, or one of the
            images or folders cannot be read.
    """
    side, mode = wanted.image_size or DEFAULT_SIZE, "L" if wanted.channels == 1 else "RGB"
    files, how, left_out = find_files(place)

    def decode(rows: Rows) -> dict[str, Counter[str]]:
        return {"changed": _decode_all(files, side, mode, rows)}

    sizes = {split: len(files[split]) for split in SPLITS}
    shape = len(mode), side, side  # of "RGB" and "L"
    found = gather(wanted.decoded, _key(place, files, shape), sizes, shape, decode)
    description = (
        f"The images of the folder {place.name}, cut to their central square and "
        f"resized to {side}x{side}{', grey' if mode == 'L' else ''}; {how}."
    )
    for begins, counts in (("Left out", left_out), ("Not kept", Counter(found.told["changed"]))):
        if counts:
            description += f" {begins}: {_listed(counts)}."
    labels, names = _classes(place, files)
    return Splits(
        train=found.images["train"],
        valid=found.images["valid"],
        test=found.images["test"],
        labels=labels,
        class_names=names,
        name=f"folder:{place.name}",
        description=description,
        left_out=_listed(left_out),
        known_digest=found.digest,
    )


def _classes(
    place: Path, files: dict[str, list[Path]]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Labels of each split, int64 (N,), and the names of the classes, which are folders.

    They are the folders in PATH, or in its folders that are splits; nothing where an image lies
    in none of them, or there is but one.
    """
    of_image = {}
    inside = {folder.parts[-1] for folder in _split_folders(place).values()}
    for split in SPLITS:
        parts = [file.relative_to(place).parts[:-1] for file in files[split]]
        of_image[split] = [p[1:2] if inside else p[:1] for p in parts]
    names = sorted({name for of_split in of_image.values() for name in of_split})
    if () in names or len(names) < 2:
        return {}, ()
    number = {name: n for n, name in enumerate(names)}
    labels = {
        split: torch.tensor([number[name] for name in of_split])
        for split, of_split in of_image.items()
    }
    return labels, tuple(name for (name,) in names)


def _key(place: Path, files: dict[str, list[Path]], shape: tuple[int, ...]) -> str:
    """Tells image files apart by their names, sizes and times, and what they are resized to."""
    listed = []
    for split in SPLITS:
        for file in files[split]:
            status = file.stat()
            name = file.relative_to(place).as_posix()
            listed.append((split, name, status.st_size, status.st_mtime_ns))
    return key_of("folder", shape, listed)


def _listed(counts: Counter[str]) -> str:
    """The five most frequent things, and how many kinds there are beside them."""
    listed = ", ".join(f"{n} x {what}" for what, n in counts.most_common(5))
    more = len(counts) - 5
    return listed + (f" and {number_of(more, 'other kind')}" if more > 0 else "")


def find_files(place: Path) -> tuple[dict[str, list[Path]], str, Counter[str]]:
    """The image files of each split, half a sentence on how they were split, what was left out.

    Raises:
        UserError: as `load_folder`; no image is read.
    """
    if not place.is_dir():
        raise UserError(f"there is no folder {place}; check the path after folder:")
    left_out: Counter[str] = Counter()
    try:
        files, how = _split(place, left_out)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); allow it (chmod), or move it away"
        ) from None
    return files, how, left_out


def check_folder(place: Path, wanted: Wanted) -> None:
    """Raise UserError where `load_folder` would, as far as that shows without reading images."""
    find_files(place)


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders that are splits, by the split; of each there is one at most."""
    inside = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    found = {}
    for split, names in FOLDERS.items():
        folders = [folder for folder in inside if folder.name.lower() in names]
        if len(folders) > 1:
            both = " and ".join(folder.name for folder in folders)
            raise UserError(f"{path} has folders {both}; keep one of them")
        if folders:
            found[split] = folders[0]
    return found


def _split(path: Path, left_out: Counter[str]) -> tuple[dict[str, list[Path]], str]:
    """The files of each split, and half a sentence on how they were split."""
    folders = _split_folders(path)
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
            if other.name in used or other.name.startswith("."):
                continue
            if other.is_dir():
                left_out[f"{_shown(other.name)}/"] += 1
            else:
                left_out[f"{_kind(other)} beside the folders"] += 1
        how = "split by its folders " + ", ".join(f.name for f in folders.values())
    else:
        found = _image_files(path, left_out)
        if len(found) < 10:
            raise UserError(
                f"{path} holds {number_of(len(found), 'image')}; splitting them takes at least 10,"
                " so add some"
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
            raise UserError(f"{folders['train']} holds fewer than 10 images; add a folder valid")
        files["valid"] = files["train"][9::10]
        files["train"] = [file for i, file in enumerate(files["train"]) if i % 10 < 9]
        names = f"{folders['train'].name} and {folders['test'].name}"
        how = f"split by its folders {names}, every tenth training image for validation"
    return files, how


def _shown(name: str) -> str:
    """A name without what a terminal would obey."""
    return name if name.isprintable() else ascii(name)


def _kind(file: Path) -> str:
    """What a file is called that is left out."""
    suffix = file.suffix.lower()
    if suffix in SUFFIXES:
        return "image"
    return f"{_shown(suffix)} file" if suffix else "file"


def _refuse(error: OSError) -> None:
    """For `os.walk`, which else passes over folders that cannot be read."""
    raise error


def _image_files(path: Path, left_out: Counter[str]) -> list[Path]:
    """The image files below a folder, sorted by their path; hidden ones and folders are none.

    Links are followed, each folder once on its way down. Files that are no images are counted in
    `left_out` by their endings.

    Raises:
        OSError: a folder cannot be read.
        UserError: there is no image.
    """
    files = []
    # Folders above the one at hand, to tell a link that leads back up.
    above: dict[str, frozenset] = {str(path): frozenset()}
    for folder, folders, names in os.walk(path, onerror=_refuse, followlinks=True):
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
                left_out[_kind(file)] += 1
            elif not file.is_file():
                left_out["link that leads nowhere"] += 1
            else:
                files.append(file)
    if not files:
        raise UserError(f"{path} holds no image; put {', '.join(sorted(SUFFIXES))} files in")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def _decode_all(files: dict[str, list[Path]], side: int, mode: str, rows: Rows) -> Counter[str]:
    """Image files -> rows (c, side, side), split after split; returns how often they lost what."""
    from tqdm import tqdm

    changed: Counter[str] = Counter()
    at = 0
    for split in SPLITS:
        for file in tqdm(
            files[split], desc=f"reading {split}", unit="image", leave=False, disable=None
        ):
            picture = read_picture(file)
            rows.put(at, _fit(picture, side, mode).transpose(2, 0, 1)[None])
            at += 1
            changed.update(picture.lost)
            if mode == "L" and not picture.is_grey:
                changed["its colours"] += 1
            changed.update(what for what in picture.dropped if what == "its colour profile")
    return changed


def _fit(picture: Picture, image_size: int, mode: str) -> np.ndarray:
    """The central square of a picture, resized: uint8 (image_size, image_size, c)."""
    from PIL import Image, ImageOps

    size = (image_size, image_size)
    image = Image.fromarray(picture.pixels).convert(mode)
    fitted = np.asarray(ImageOps.fit(image, size, Image.Resampling.BILINEAR))
    return fitted.reshape(*size, -1)
