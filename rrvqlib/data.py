"""Dataset name -> uint8 images (N, 3, H, W) in three fixed splits.

`load("photos")` and `load("swatches")` need no download. No data file is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrvqlib.errors import UserError
from rrvqlib.pixels import MAX_PIXELS
from rrvqlib.reader import SUFFIXES, Picture, read_picture

DATASETS: dict[str, str] = {
    "swatches": "constant images in nine colours, 32x32; the toy data set of Appendix B",
    "photos": "patches of the photographs inside scikit-image and matplotlib, 32x32 or 64x64",
    "cifar10": "CIFAR-10, 32x32, downloaded (170 MB) into the data folder when first used",
    "svhn": "Street View House Numbers, 32x32, downloaded (250 MB) when first used",
    "celeba": "CelebA faces, 64x64, downloaded (1.4 GB) when first used",
    "folder:PATH": "images below PATH, one folder per class, or PATH/train, PATH/test and, if you "
    "like, PATH/valid (or val, or validation)",
    "npz:PATH": "a NumPy file with the uint8 arrays train_images, test_images and, if you like, "
    "valid_images, each (N, H, W, 3)",
}

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of a data set, uint8 (N, 3, H, W) with H = W, N differing between splits."""

    train: Tensor
    valid: Tensor
    test: Tensor
    name: str  # as given to `load`, files and folders without the path to them
    description: str  # one sentence: what the images are, how they were split

    @property
    def image_size(self) -> int:
        """H = W, in pixels."""
        return self.train.shape[-1]

    @cached_property
    def digest(self) -> str:
        """Of the pixels of all splits and their sizes, 32 hexadecimal digits (1 s for 1 GB)."""
        sha = hashlib.blake2b(digest_size=16)
        for split in SPLITS:
            images = getattr(self, split)
            sha.update(f"{split}{tuple(images.shape)}".encode())
            for part in images.split(4096):
                sha.update(part.contiguous().numpy().data)
        return sha.hexdigest()

    def __getitem__(self, split: str) -> Tensor:
        """The images of one split, uint8 (N, 3, H, W).

        Raises:
            UserError: there is no split of this name.
        """
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
        return getattr(self, split)


def load(dataset: str, data_dir: str | Path = "data", image_size: int | None = None) -> Splits:
    """Load a data set with its fixed splits; the same call gives the same tensors each time.

    Args:
        dataset: a key of `DATASETS`, with a path in place of PATH.
        data_dir: folder that downloads are kept in; made when something is downloaded.
        image_size: H = W in pixels; None is the data set's own size. Only `swatches`, `photos`
            and `folder:PATH` come in more than one size; no other data set is resized.

    Raises:
        UserError: no such data set, no such size, or its files are missing, damaged or of the
            wrong kind; the message says what to do.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size is {image_size}; it must be at least 1")
    if image_size is not None and image_size**2 > MAX_PIXELS:
        raise UserError(f"image_size is {image_size}; more than {MAX_PIXELS} pixels an image")
    data_dir = Path(data_dir)
    kind, colon, path = dataset.partition(":")
    if colon and kind in ("folder", "npz"):
        if not path:
            raise UserError(f"{dataset!r} names no path; write {kind}:PATH")
        path = path_of(dataset)
        if kind == "npz":
            return _load_npz(path, image_size)
        return _load_folder(path, 32 if image_size is None else image_size)
    if dataset == "swatches":
        return _load_swatches(32 if image_size is None else image_size)
    if dataset == "photos":
        return _load_photos(32 if image_size is None else image_size)
    if dataset in ("cifar10", "svhn"):
        _check_image_size(dataset, 32, image_size)
        return _load_cifar10(data_dir) if dataset == "cifar10" else _load_svhn(data_dir)
    if dataset == "celeba":
        _check_image_size(dataset, 64, image_size)
        return _load_celeba(data_dir)
    raise UserError(f"there is no data set {dataset!r}; choose one of {', '.join(DATASETS)}")


def path_of(dataset: str) -> Path | None:
    """PATH of `folder:PATH` and `npz:PATH`; None for the data sets that have a name alone.

    Raises:
        UserError: it begins with ~ and the name of a user whom the system does not know.
    """
    kind, _, path = dataset.partition(":")
    if kind not in ("folder", "npz") or not path:
        return None
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user; write the path out") from None


def _check_image_size(name: str, actual: int, wanted: int | None) -> None:
    """Images are never resized behind the reader's back: it would change the score."""
    if wanted is not None and wanted != actual:
        raise UserError(
            f"the images of {name} are {actual}x{actual}, not {wanted}x{wanted}, and are not "
            f"resized; pass image_size {actual}, or none at all"
        )


def _last_tenth(images: Tensor) -> tuple[Tensor, Tensor]:
    """Training images (N, 3, H, W) in official order -> the first nine tenths, the last tenth."""
    count = max(1, len(images) // 10)
    return images[:-count], images[-count:]


SWATCHES: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "orange": (255, 128, 0),
}


def _load_swatches(image_size: int) -> Splits:
    colours = torch.tensor(list(SWATCHES.values()), dtype=torch.uint8)  # (9, 3)

    def repeated(times: int) -> Tensor:
        # Colours take turns, so that any run of nine images holds every one of them.
        pixels = colours.repeat(times, 1)[:, :, None, None]
        return pixels.expand(-1, -1, image_size, image_size).contiguous()

    return Splits(
        train=repeated(100),
        valid=repeated(10),
        test=repeated(10),
        name="swatches",
        description=f"Constant {image_size}x{image_size} images in nine colours without noise; "
        "every split holds the same nine.",
    )


# Split -> (package, file in it). The two views of the motorcycle are a stereo pair of one scene
# and stay together. Left out of the colour pictures that the packages hold: drawings and colour
# charts, stained tissue, the retina and the deep field of stars. The last two are photographs,
# but their patches are nearly all plain red or black: cheap to code, and nothing to learn from.
PHOTOS: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/motorcycle_right.png"),
        ("skimage", "data/rocket.jpg"),
    ),
    "valid": (("skimage", "data/chelsea.png"),),
    "test": (
        ("skimage", "data/coffee.png"),
        ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ),
}
PHOTO_SIZES = (8, 64)  # smallest and largest patch; the smallest photograph has 75 rows at 1/4
# A photograph is cut at full size, half and a quarter: whole objects as well as their texture.
PHOTO_SHRINKS = (1, 2, 4)
# Distance of neighbouring patches, in pixels of the full-size photograph. Held-out photographs
# are cut more coarsely: overlapping patches cost time and say little that is new about a model.
PHOTO_STEPS = {"train": 16, "valid": 20, "test": 40}


def _read_photo(package: str, file: str) -> np.ndarray:
    """A photograph that ships inside an installed package, uint8 (H, W, 3).

    The package is not imported: that would take longer than all the rest, and scikit-image would
    download the pictures that its wheel lacks.
    """
    name = {"skimage": "scikit-image"}.get(package, package)
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"photos are taken from {name}, which is missing; run: pip install {name}")
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise UserError(
            f"photos need {path.name}, which this {name} lacks; "
            f"run: pip install --upgrade --force-reinstall {name}"
        )
    return read_picture(path).pixels


def _fit(picture: Picture, image_size: int) -> np.ndarray:
    """The central square of a picture, resized: uint8 (image_size, image_size, 3)."""
    from PIL import Image, ImageOps

    size = (image_size, image_size)
    return np.asarray(
        ImageOps.fit(Image.fromarray(picture.pixels), size, Image.Resampling.BILINEAR)
    )


def _shrink(photo: np.ndarray, factor: int) -> np.ndarray:
    """Average over blocks of factor x factor pixels, uint8 (H, W, 3) -> (H // f, W // f, 3).

    Sums of integers, so that every machine gives the same bytes.
    """
    height, width = photo.shape[0] // factor, photo.shape[1] // factor
    blocks = photo[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    total = blocks.sum((1, 3), dtype=np.uint32)
    return ((total + factor**2 // 2) // factor**2).astype(np.uint8)


def _patches(photo: np.ndarray, image_size: int, step: int) -> np.ndarray:
    """All patches on a grid at every scale, uint8 (H, W, 3) -> (N, 3, image_size, image_size)."""
    cut = []
    for factor in PHOTO_SHRINKS:
        windows = np.lib.stride_tricks.sliding_window_view(
            _shrink(photo, factor), (image_size, image_size), axis=(0, 1)
        )  # (rows, columns, 3, image_size, image_size)
        windows = windows[:: step // factor, :: step // factor]
        cut.append(windows.reshape(-1, 3, image_size, image_size))
    return np.concatenate(cut)


def _load_photos(image_size: int) -> Splits:
    smallest, largest = PHOTO_SIZES
    if not smallest <= image_size <= largest:
        raise UserError(
            f"photos come in sizes from {smallest} to {largest}, not {image_size}; "
            "pass image_size 32 or 64"
        )
    splits, seen = {}, set()
    for split in reversed(SPLITS):  # a patch in two splits (plain black, say) leaves the training
        patches = np.concatenate(
            [_patches(_read_photo(*p), image_size, PHOTO_STEPS[split]) for p in PHOTOS[split]]
        )
        if split == "train":
            patches = np.concatenate([patches, patches[..., ::-1]])  # and mirrored
        new = []
        for index, patch in enumerate(patches):
            digest = hashlib.blake2b(patch.tobytes()).digest()
            if digest not in seen:
                seen.add(digest)
                new.append(index)
        # Shuffled, so that the first images of a split are a fair sample of it.
        order = torch.randperm(len(new), generator=torch.Generator().manual_seed(0))
        splits[split] = torch.from_numpy(patches[np.array(new)[order]])
    return Splits(
        **splits,
        name="photos",
        description=f"{image_size}x{image_size} patches, at three scales, of photographs that "
        "ship inside scikit-image and matplotlib; validation and test patches are of other "
        "photographs than training patches.",
    )


def _load_npz(path: Path, image_size: int | None) -> Splits:
    if not path.exists():
        raise UserError(f"there is no file {path}; check the path after npz:")
    arrays = {}
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise UserError(f"{path} is a single array; save named arrays with numpy.savez")
        with file:
            names = set(file.files)
            for name in ("train_images", "valid_images", "test_images", "train_index"):
                if name in names:
                    arrays[name] = file[name]
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
    index = arrays.pop("train_index", None)
    images = {
        name.removesuffix("_images"): _channels_first(path, name, array)
        for name, array in arrays.items()
    }
    sizes = {split: tensor.shape[-1] for split, tensor in images.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{split} {size}x{size}" for split, size in sizes.items())
        raise UserError(f"the splits of {path} differ in image size ({listed}); save one size")
    _check_image_size(str(path), sizes["train"], image_size)

    how = "with the validation images of the file"
    if "valid" not in images:
        how = "validation images are the last tenth of its training images, in official order"
        if len(images["train"]) < 2:
            raise UserError(f"{path} has one training image and no valid_images; add some")
        if index is None:
            images["train"], images["valid"] = _last_tenth(images["train"])
        else:
            images["train"], images["valid"] = _last_official_tenth(path, images["train"], index)
    return Splits(
        **images, name=f"npz:{path.name}", description=f"The images of the file {path.name}; {how}."
    )


def _channels_first(path: Path, name: str, array: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) or (N, 3, H, W) -> Tensor (N, 3, H, W)."""
    if array.dtype != np.uint8:
        raise UserError(
            f"{name} of {path} has dtype {array.dtype}; save pixels 0 to 255 as numpy.uint8"
        )
    if array.ndim == 4 and array.shape[3] == 3:
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] != 3 or array.shape[2] != array.shape[3]:
        raise UserError(
            f"{name} of {path} has shape {array.shape}; save square colour images as (N, H, W, 3)"
        )
    if 0 in array.shape:
        raise UserError(f"{name} of {path} is empty, shape {array.shape}; leave no array empty")
    return torch.from_numpy(np.ascontiguousarray(array))


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


# Names of a folder of validation images.
VALID_FOLDERS = ("valid", "val", "validation")


def _load_folder(path: Path, image_size: int) -> Splits:
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; check the path after folder:")
    left_out: Counter[str] = Counter()
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
    changed: Counter[str] = Counter()
    images = {split: _decode_all(files[split], image_size, split, changed) for split in SPLITS}
    description = (
        f"The images of the folder {path.name}, cut to their central square and "
        f"resized to {image_size}x{image_size}; {how}."
    )
    for begins, counts in (("Left out", left_out), ("Not kept", changed)):
        if counts:
            listed = ", ".join(f"{n} x {what}" for what, n in counts.most_common(5))
            more = len(counts) - 5
            description += f" {begins}: {listed}{f' and {more} other kinds' if more > 0 else ''}."
    return Splits(**images, name=f"folder:{path.name}", description=description)


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


@contextmanager
def _fetching(name: str, data_dir: Path, files: str) -> Iterator[None]:
    """Turn whatever goes wrong while torchvision fetches and reads a data set into a UserError."""
    try:
        yield
    except ImportError as error:
        module = error.name or "torchvision"
        raise UserError(f"{name} needs {module}; run: pip install {module}") from error
    # No network, no such host, a broken archive, no room, no right to write, a page in place of
    # a file: there are too many kinds to list, and the remedy is the same.
    except Exception as error:
        raise UserError(
            f"{name} is not complete in {data_dir} and could not be downloaded ({error}); "
            f"put {files} there, or use photos, which needs no download, or npz:PATH"
        ) from error


CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_URL = f"https://www.cs.toronto.edu/~kriz/{CIFAR10_ARCHIVE}"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_BATCH_SIZE = 10_000  # images in a file
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST = "test_batch.bin"


def _load_cifar10(data_dir: Path) -> Splits:
    # Not torchvision.datasets.CIFAR10: it unpickles its files, and a pickle can run any code.
    # The same images are published as plain bytes.
    folder = data_dir / CIFAR10_FOLDER
    if not all((folder / file).is_file() for file in (*CIFAR10_TRAIN, CIFAR10_TEST)):
        with _fetching("CIFAR-10", data_dir, CIFAR10_ARCHIVE):
            from rrvqlib._torchvision import torchvision

            torchvision.datasets.utils.download_and_extract_archive(
                CIFAR10_URL, data_dir, md5=CIFAR10_MD5
            )
    train, valid = _last_tenth(torch.cat([_read_cifar10(folder / f) for f in CIFAR10_TRAIN]))
    return Splits(
        train=train,
        valid=valid,
        test=_read_cifar10(folder / CIFAR10_TEST),
        name="cifar10",
        description="CIFAR-10; validation images are the last 5,000 training images in official "
        "order.",
    )


def _read_cifar10(path: Path) -> Tensor:
    """A file of records, one label byte and 3 x 32 x 32 pixel bytes each -> (N, 3, 32, 32)."""
    try:
        records = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error
    expected = CIFAR10_BATCH_SIZE * (1 + 3 * 32 * 32)
    if len(records) != expected:
        raise UserError(
            f"{path} has {len(records)} bytes, not {expected}; remove the folder {path.parent} "
            "and run again"
        )
    pixels = records.reshape(CIFAR10_BATCH_SIZE, -1)[:, 1:]
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())


def _load_svhn(data_dir: Path) -> Splits:
    images = {}
    for split in ("train", "test"):
        with _fetching("SVHN", data_dir, "train_32x32.mat and test_32x32.mat"):
            from rrvqlib._torchvision import torchvision

            svhn = torchvision.datasets.SVHN(data_dir, split, download=True)
        images[split] = torch.from_numpy(np.ascontiguousarray(svhn.data))
    train, valid = _last_tenth(images["train"])
    return Splits(
        train=train,
        valid=valid,
        test=images["test"],
        name="svhn",
        description="Cropped digits of SVHN without its extra images; validation images are the "
        "last tenth of the training images in official order.",
    )


# Left, top, right, bottom in the aligned 178x218 images: the square of 148 pixels around the face
# that NVAE and others cut out before they resize to 64x64.
CELEBA_BOX = (15, 40, 163, 188)
CELEBA_SIZE = 64
CELEBA_CACHE = "celeba-64x64.npz"


def _load_celeba(data_dir: Path) -> Splits:
    cache = data_dir / CELEBA_CACHE
    if not cache.exists():
        _write_celeba_cache(cache)
    try:
        splits = _load_npz(cache, CELEBA_SIZE)
    except UserError as error:
        raise UserError(f"{error}; remove {cache} to have it made again") from error
    return replace(
        splits,
        name="celeba",
        description="CelebA faces, cut out and resized to 64x64, in the official partition.",
    )


def _write_celeba_cache(cache: Path) -> None:
    """Decode the 202,599 JPEG files once (some minutes) and keep the pixels (2.5 GB)."""
    from tqdm import tqdm

    arrays = {}
    for split in SPLITS:
        with _fetching(
            "CelebA", cache.parent, "the folder celeba (img_align_celeba and the .txt lists)"
        ):
            from PIL import Image

            from rrvqlib._torchvision import torchvision

            def crop(image: Image.Image) -> np.ndarray:
                face = image.convert("RGB").crop(CELEBA_BOX)
                return np.asarray(face.resize((CELEBA_SIZE,) * 2, Image.Resampling.BILINEAR))

            celeba = torchvision.datasets.CelebA(
                cache.parent, split, target_type=[], transform=crop, download=True
            )
            images = np.empty((len(celeba), CELEBA_SIZE, CELEBA_SIZE, 3), dtype=np.uint8)
            bar = tqdm(range(len(celeba)), desc=f"CelebA {split}", unit="image", disable=None)
            for index in bar:
                images[index] = celeba[index][0]
        arrays[f"{split}_images"] = images
    # A kill while writing must not leave half a file under the final name.
    partial = cache.with_name(f"{cache.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, cache)
    except OSError as error:
        raise UserError(
            f"cannot write {cache} ({error}); make room or choose another data folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
