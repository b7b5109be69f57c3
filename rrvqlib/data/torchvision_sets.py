"""The data sets that torchvision can fetch, downloaded when first used; nothing is unpickled."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.fetching import fetching
from rrvqlib.data.gathered import Gathered, Rows, gather, mapped
from rrvqlib.data.splits import (
    SPLITS,
    Splits,
    Wanted,
    check_image_size,
    last_tenth,
    official_labels,
)
from rrvqlib.errors import UserError

CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_URL = f"https://www.cs.toronto.edu/~kriz/{CIFAR10_ARCHIVE}"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_BATCH_SIZE = 10_000  # images in a file
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST = "test_batch.bin"
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


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
        with fetching("CIFAR-10", place, CIFAR10_ARCHIVE):
            from rrvqlib.data.torchvision_import import torchvision

            # A type checker takes `torchvision.datasets.utils` for a function.
            utils = import_module(".utils", torchvision.datasets.__name__)
            utils.download_and_extract_archive(CIFAR10_URL, place, md5=CIFAR10_MD5)
    read = [_read_cifar10(folder / file) for file in (*CIFAR10_TRAIN, CIFAR10_TEST)]
    images, labels = zip(*read, strict=True)
    train, valid = last_tenth(torch.cat(images[:-1]))
    return Splits(
        train=train,
        valid=valid,
        test=images[-1],
        labels=official_labels(torch.cat(labels[:-1]), labels[-1]),
        class_names=CIFAR10_CLASSES,
        name="cifar10",
        description="CIFAR-10; validation images are the last 5,000 training images in official "
        "order.",
    )


def _read_cifar10(path: Path) -> tuple[Tensor, Tensor]:
    """A file of records, a label byte and 3 x 32 x 32 pixel bytes each -> images, labels (N,)."""
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
    records = torch.from_numpy(records.reshape(CIFAR10_BATCH_SIZE, -1))
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def load_svhn(place: Path, wanted: Wanted) -> Splits:
    """Street View House Numbers, 65,932, 7,325 and 26,032 images of 32x32.

    Args:
        place: folder that the download is kept in; made if there is none.
        wanted: image_size is 32 or None.

    Raises:
        UserError: another size, no scipy, no download, or a damaged file.
    """
    check_image_size("svhn", 32, wanted)
    images, labels = {}, {}
    for split in ("train", "test"):
        with fetching("SVHN", place, "train_32x32.mat and test_32x32.mat"):
            from rrvqlib.data.torchvision_import import torchvision

            svhn = torchvision.datasets.SVHN(place, split, download=True)
        images[split] = torch.from_numpy(np.ascontiguousarray(svhn.data))
        labels[split] = torch.from_numpy(np.asarray(svhn.labels))
    train, valid = last_tenth(images["train"])
    return Splits(
        train=train,
        valid=valid,
        test=images["test"],
        labels=official_labels(labels["train"], labels["test"]),
        class_names=tuple("0123456789"),
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
        train=found.images["train"],
        valid=found.images["valid"],
        test=found.images["test"],
        name="celeba",
        description="CelebA faces, cut out and resized to 64x64, in the official partition.",
        known_digest=found.digest,
    )


def _decode_celeba(place: Path, folder: Path) -> Gathered:
    """Decode the 202,599 JPEG files once (some minutes) and keep the pixels (2.5 GB)."""
    from tqdm import tqdm

    size = (CELEBA_SIZE, CELEBA_SIZE)
    fetching_celeba = partial(
        fetching, "CelebA", place, "the folder celeba (img_align_celeba and the .txt lists)"
    )
    with fetching_celeba():
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
                with fetching_celeba():
                    face = images[index][0]
                rows.put(at, face[None])
                at += 1
        return {}

    sizes = {split: len(images) for split, images in faces.items()}
    return gather(folder, CELEBA_KEY, sizes, (3, *size), fill, in_memory=0)
