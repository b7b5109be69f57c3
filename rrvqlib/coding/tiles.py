"""Images of any size <-> square tiles of the size that a model was made for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rrvqlib.data.pixels import MAX_PIXELS

MAX_TILES = 1 << 17  # of all images; more would take hours, at some 30 ms each


@dataclass(frozen=True)
class Entry:
    """An image among several: its name and its size in pixels."""

    name: str
    width: int
    height: int

    def grid(self, side: int) -> tuple[int, int]:
        """Rows and columns of tiles of one side."""
        return -(-self.height // side), -(-self.width // side)


def count_tiles(entries: Iterable[Entry], side: int) -> int:
    """How many tiles of one side all images are cut into.

    Raises:
        ValueError: more than one file holds.
    """
    grids = (entry.grid(side) for entry in entries)
    tiles = sum(rows * columns for rows, columns in grids)
    if tiles > MAX_TILES or tiles * side**2 > MAX_PIXELS:
        raise ValueError(f"more than {MAX_TILES} tiles or {MAX_PIXELS} pixels")
    return tiles


def cut(image: Tensor, side: int) -> Tensor:
    """uint8 image (c, H, W) -> tiles (N, c, side, side), row by row; edges are repeated."""
    channels, height, width = image.shape
    rows = torch.arange(height + -height % side).clamp(max=height - 1)
    columns = torch.arange(width + -width % side).clamp(max=width - 1)
    padded = image[:, rows][:, :, columns]
    tiles = padded.unfold(1, side, side).unfold(2, side, side)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, channels, side, side)


def join(tiles: list[Tensor], entries: Iterable[Entry]) -> Iterator[Tensor]:
    """The inverse of `cut` for the tiles of several images in a row, one image at a time."""
    channels, side, at = tiles[0].shape[0], tiles[0].shape[-1], 0
    for entry in entries:
        rows, columns = entry.grid(side)
        mine = torch.stack(tiles[at : at + rows * columns])
        at += rows * columns
        grid = mine.view(rows, columns, channels, side, side).permute(2, 0, 3, 1, 4)
        whole = grid.reshape(channels, rows * side, columns * side)
        yield whole[:, : entry.height, : entry.width].contiguous()
