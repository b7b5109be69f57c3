"""The data sets that torchvision can fetch, downloaded when first used; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.gathered import Gathered, Rows, gather, mapped
from rrvqlib.data.splits import SPLITS, Splits, Wanted, check_image_size, last_tenth
from rrvqlib.errors import UserError

CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_URL = f"https://www.cs.toronto.edu/~kriz/{CIFAR10_ARCHIVE}"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_BATCH_SIZE = 10_000  # images in a file
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST = "test_batch.bin"


def check_32x32(place: Path, wanted: Wanted) -> None:
    """Raise UserError where CIFAR-10 and SVHN do not come in a size."""
    check_image_size("cifar10 and svhn", 32, wanted)


def load_cifar10(place: Path, wanted: Wanted) -> Splits:
    """CIFAR-10, 45,000, 5,000 and 10,000 images of 32x32.

    Args:
        place: folder that the download is kept in; made if there is none.
        wanted: image_size is 32 or None.

    Raises:
        UserError: another size, no download, or a damaged file.
    """
    check_image_size("cifar10", 32, wanted)
    # Not torchvision.datasets.CIFAR10: it unpickles its files, and a pickle can run any code.
    # The same images are published as plain bytes.
    folder = place / CIFAR10_FOLDER
    if not all((folder / file).is_file() for file in (*CIFAR10_TRAIN, CIFAR10_TEST)):
        with _fetching("CIFAR-10", place, CIFAR10_ARCHIVE):
            from rrvqlib.data.torchvision_import import torchvision

            # A type checker takes `torchvision.datasets.utils` for a function.
            utils = import_module(".utils", torchvision.datasets.__name__)
            utils.download_and_extract_archive(CIFAR10_URL, place, md5=CIFAR10_MD5)
    train, valid = last_tenth(torch.cat([_read_cifar10(folder / f) for f in CIFAR10_TRAIN]))
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


def load_svhn(place: Path, wanted: Wanted) -> Splits:
    """Street View House Numbers, 65,932, 7,325 and 26,032 images of 32x32.

    Args:
        place: folder that the download is kept in; made if there is none.
        wanted: image_size is 32 or None.

    Raises:
        UserError: another size, no scipy, no download, or a damaged file.
    """
    check_image_size("svhn", 32, wanted)
    images = {}
    for split in ("train", "test"):
        with _fetching("SVHN", place, "train_32x32.mat and test_32x32.mat"):
            from rrvqlib.data.torchvision_import import torchvision

            svhn = torchvision.datasets.SVHN(place, split, download=True)
        images[split] = torch.from_numpy(np.ascontiguousarray(svhn.data))
    train, valid = last_tenth(images["train"])
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
CELEBA_KEY = "celeba-64x64"  # of the pixels cut from it


def check_celeba(place: Path, wanted: Wanted) -> None:
    """Raise UserError where CelebA does not come in a size."""
    check_image_size("celeba", CELEBA_SIZE, wanted)


def load_celeba(place: Path, wanted: Wanted) -> Splits:
    """CelebA faces, 162,770, 19,867 and 19,962 images of 64x64.

    Args:
        place: folder that the download and the pixels cut from it are kept in.
        wanted: image_size is 64 or None.

    Raises:
        UserError: another size, no download, a damaged file, or no room on the disk.
    """
    check_celeba(place, wanted)
    folder = wanted.decoded or place / "decoded"
    found = mapped(folder, CELEBA_KEY) or _decode_celeba(place, folder)
    return Splits(
        **found.images,
        name="celeba",
        description="CelebA faces, cut out and resized to 64x64, in the official partition.",
        known_digest=found.digest,
    )


def _decode_celeba(place: Path, folder: Path) -> Gathered:
    """Decode the 202,599 JPEG files once (some minutes) and keep the pixels (2.5 GB)."""
    from tqdm import tqdm

    size = (CELEBA_SIZE, CELEBA_SIZE)
    fetching = partial(
        _fetching, "CelebA", place, "the folder celeba (img_align_celeba and the .txt lists)"
    )
    with fetching():
        from PIL import Image

        from rrvqlib.data.torchvision_import import torchvision

        def crop(image: Image.Image) -> np.ndarray:
            face = image.convert("RGB").crop(CELEBA_BOX)
            return np.asarray(face.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1)

        faces = {
            split: torchvision.datasets.CelebA(
                place, split, target_type=[], transform=crop, download=True
            )
            for split in SPLITS
        }

    def fill(rows: Rows) -> dict[str, str]:
        at = 0
        for split, images in faces.items():
            bar = tqdm(range(len(images)), desc=f"CelebA {split}", unit="image", disable=None)
            for index in bar:
                with fetching():
                    face = images[index][0]
                rows.put(at, face[None])
                at += 1
        return {}

    sizes = {split: len(images) for split, images in faces.items()}
    return gather(folder, CELEBA_KEY, sizes, (3, *size), fill, in_memory=0)


MNIST_FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
MNIST_SIZE, MNIST_MAGIC = 28, 0x0803  # side in pixels; the first four bytes: bytes, in 3 dimensions


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
    return _load_grey("mnist", "MNIST", place, wanted)


def load_fashion_mnist(place: Path, wanted: Wanted) -> Splits:
    """Articles of clothing, 54,000, 6,000 and 10,000 grey images of 28x28.

    Args: as `load_mnist`, and what it raises, too.
    """
    return _load_grey("fashion-mnist", "FashionMNIST", place, wanted)


def _load_grey(name: str, kind: str, place: Path, wanted: Wanted) -> Splits:
    """A data set in MNIST's format, where torchvision's class of the name `kind` keeps it."""
    check_28x28(place, wanted)
    folder = place / kind / "raw"
    # Not torchvision's class itself: it unpickles what an older version may have left there.
    if not all((folder / file).is_file() for file in MNIST_FILES.values()):
        archives = " and ".join(f"{file}.gz" for file in MNIST_FILES.values())
        with _fetching(kind, folder, archives):
            from rrvqlib.data.torchvision_import import torchvision

            published = getattr(torchvision.datasets, kind)
            utils = import_module(".utils", torchvision.datasets.__name__)
            for archive, md5 in published.resources:
                if archive.removesuffix(".gz") in MNIST_FILES.values():
                    _fetch_from_any(utils, published.mirrors, folder, archive, md5)
    train, valid = last_tenth(_read_idx(folder / MNIST_FILES["train"]))
    return Splits(
        train=train,
        valid=valid,
        test=_read_idx(folder / MNIST_FILES["test"]),
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


def _read_idx(path: Path) -> Tensor:
    """A file of MNIST's format, four numbers of four bytes and the pixels -> (N, 1, 28, 28)."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error
    side = MNIST_SIZE
    magic, count, *sides = data[:16].view(">i4").tolist() if len(data) >= 16 else (0, 0)
    if magic != MNIST_MAGIC or sides != [side, side] or len(data) != 16 + count * side**2:
        raise UserError(f"{path} is damaged; remove it and run again")
    return torch.from_numpy(data[16:].reshape(count, 1, side, side))


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
