"""Coded images <-> one file: versioned, with the model's fingerprint and two checksums.

Layout, little-endian: magic `RRVQ`, version, mode (0 lossless, 1 lossy), layers kept, side of the
tiles; fingerprint of the model (8 bytes); digest of the decoded pixels (8); number of images and
of 32-bit words; for each image width, height, length of its name, name; the words; a digest of
everything before (8).
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rrvqlib.errors import UserError
from rrvqlib.models import VAE

MAGIC, VERSION = b"RRVQ", 1
MODES = ("lossless", "lossy")
HEAD = struct.Struct("<4sBBHH8s8sII")
ENTRY = struct.Struct("<IIH")
DIGEST = 8
MAX_SIDE = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One image of a file."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Container:
    """What a file holds.

    Attributes:
        mode: of `MODES`.
        layers: how many of the topmost layers are kept; all of them when lossless.
        tile: side of the tiles, the model's image size.
        model: fingerprint of the model that wrote it.
        pixels: digest of the images that come out.
        entries: one for each image.
        words: uint32, of the coder.
    """

    mode: str
    layers: int
    tile: int
    model: bytes
    pixels: bytes
    entries: tuple[Entry, ...]
    words: np.ndarray

    @property
    def tiles(self) -> int:
        """How many tiles all images are cut into."""
        return sum(-(-e.width // self.tile) * -(-e.height // self.tile) for e in self.entries)


def digest(*parts: bytes) -> bytes:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.digest()[:DIGEST]


def fingerprint(model: VAE) -> bytes:
    """Of a model's settings and weights, as stored in float32."""
    state = model.state_dict()
    weights = (state[name].float().cpu().numpy().tobytes() for name in sorted(state))
    return digest(json.dumps(asdict(model.config), sort_keys=True).encode(), *weights)


def pixel_digest(images: list[Tensor]) -> bytes:
    """Of uint8 images (3, H, W)."""
    return digest(*(image.numpy().tobytes() for image in images))


def pack(container: Container) -> bytes:
    """The bytes of a file."""
    # Of a name that is no text, or is longer than most systems allow, what can be kept.
    names = [
        entry.name.encode(errors="replace")[:255].decode(errors="ignore").encode()
        for entry in container.entries
    ]
    head = HEAD.pack(
        MAGIC,
        VERSION,
        MODES.index(container.mode),
        container.layers,
        container.tile,
        container.model,
        container.pixels,
        len(names),
        len(container.words),
    )
    body = b"".join(
        ENTRY.pack(entry.width, entry.height, len(name)) + name
        for entry, name in zip(container.entries, names, strict=True)
    )
    data = head + body + container.words.astype("<u4").tobytes()
    return data + digest(data)


def unpack(data: bytes, source: str) -> Container:
    """The inverse of `pack`.

    Args:
        data: the whole file.
        source: its name, for messages.

    Raises:
        UserError: this is no such file, or not all of it, or not as it was written.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise UserError(f"{source} was not written by rrvqlib.compress; choose another file")
    if len(data) < HEAD.size + DIGEST or digest(data[:-DIGEST]) != data[-DIGEST:]:
        raise UserError(f"{source} is damaged or incomplete; copy it anew")
    magic, version, mode, layers, tile, model, pixels, images, words = HEAD.unpack_from(data)
    if version != VERSION:
        raise UserError(f"{source} has format {version}, this is format {VERSION}; update rrvqlib")
    try:
        entries, at = [], HEAD.size
        for _ in range(images):
            width, height, length = ENTRY.unpack_from(data, at)
            at += ENTRY.size
            # A name alone: no folder that a foreign file could point to.
            name = PurePosixPath(data[at : at + length].decode().replace("\\", "/")).name
            entries.append(Entry(name or "image", width, height))
            at += length
        if at + 4 * words + DIGEST != len(data) or mode >= len(MODES) or tile == 0:
            raise ValueError
        if any(not 0 < side <= MAX_SIDE for e in entries for side in (e.width, e.height)):
            raise ValueError
    except (struct.error, ValueError):
        raise UserError(f"{source} contradicts itself; write it anew") from None
    coded = np.frombuffer(data, "<u4", words, at)
    return Container(MODES[mode], layers, tile, model, pixels, tuple(entries), coded)


def cut(image: Tensor, side: int) -> Tensor:
    """uint8 image (3, H, W) -> tiles (N, 3, side, side), row by row; edges are repeated."""
    _, height, width = image.shape
    down, right = -height % side, -width % side
    padded = F.pad(image.float().unsqueeze(0), (0, right, 0, down), mode="replicate")[0]
    tiles = padded.to(torch.uint8).unfold(1, side, side).unfold(2, side, side)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side)


def join(tiles: list[Tensor], entries: tuple[Entry, ...]) -> list[Tensor]:
    """The inverse of `cut` for the tiles of several images in a row."""
    images, rest = [], tiles
    for entry in entries:
        side = tiles[0].shape[-1]
        rows, columns = -(-entry.height // side), -(-entry.width // side)
        mine, rest = rest[: rows * columns], rest[rows * columns :]
        grid = torch.stack(mine).view(rows, columns, 3, side, side).permute(2, 0, 3, 1, 4)
        whole = grid.reshape(3, rows * side, columns * side)
        images.append(whole[:, : entry.height, : entry.width].contiguous())
    return images
