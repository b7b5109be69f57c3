"""Constant images in nine colours: the toy data set of Appendix B."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rrvqlib.data.splits import DEFAULT_SIZE, Splits, Wanted

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


def load_swatches(place: Path, wanted: Wanted) -> Splits:
    """All nine colours in every split: 900, 90 and 90 images without noise.

    Args:
        place: not looked at; there is no file.
        wanted: image_size is H = W in pixels; None is 32.
    """
    side = wanted.image_size or DEFAULT_SIZE
    colours = torch.tensor(list(SWATCHES.values()), dtype=torch.uint8)  # (9, 3)

    def repeated(times: int) -> Tensor:
        # Colours take turns, so that any run of nine images holds every one of them.
        pixels = colours.repeat(times, 1)[:, :, None, None]
        return pixels.expand(-1, -1, side, side).contiguous()

    return Splits(
        train=repeated(100),
        valid=repeated(10),
        test=repeated(10),
        name="swatches",
        description=f"Constant {side}x{side} images in nine colours without noise; "
        "every split holds the same nine.",
    )
