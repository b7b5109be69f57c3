"""Patches of the photographs inside scikit-image and matplotlib: pictures without a download."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from rrvqlib.data.reader import read_picture
from rrvqlib.data.splits import DEFAULT_SIZE, SPLITS, Splits, Wanted
from rrvqlib.errors import UserError

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


def _find_photo(package: str, file: str) -> Path:
    """A photograph that ships inside an installed package.

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
    return path


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


def check_photos(place: Path, wanted: Wanted) -> None:
    """Raise UserError where `load_photos` would; no photograph is read."""
    side = wanted.image_size or DEFAULT_SIZE
    smallest, largest = PHOTO_SIZES
    if not smallest <= side <= largest:
        raise UserError(
            f"photos come in sizes from {smallest} to {largest}, not {side}; "
            "pass image_size 32 or 64"
        )
    for photos in PHOTOS.values():
        for photo in photos:
            _find_photo(*photo)


def load_photos(place: Path, wanted: Wanted) -> Splits:
    """Patches at three scales, in random order; no patch is in two splits.

    Args:
        place: not looked at; the photographs are in installed packages.
        wanted: image_size is H = W in pixels, from 8 to 64; None is 32.

    Raises:
        UserError: no such size, or scikit-image, matplotlib or a photograph is missing.
    """
    check_photos(place, wanted)
    side = wanted.image_size or DEFAULT_SIZE
    splits, seen = {}, set()
    for split in reversed(SPLITS):  # a patch in two splits (plain black, say) leaves the training
        patches = np.concatenate(
            [
                _patches(read_picture(_find_photo(*photo)).pixels, side, PHOTO_STEPS[split])
                for photo in PHOTOS[split]
            ]
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
        description=f"{side}x{side} patches, at three scales, of photographs that "
        "ship inside scikit-image and matplotlib; validation and test patches are of other "
        "photographs than training patches.",
    )
