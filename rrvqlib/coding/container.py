"""Coded images <-> one file: versioned, with the model's fingerprint and digests of the pixels.

Layout, little-endian: magic `RRVQ`, version, mode (0 lossless, 1 lossy), layers kept, side of the
tiles; fingerprint of the model (8 bytes); digest of the decoded images (8) and of the tile that is
decoded first (8), which tells a wrong file or machine before the long work; number of images and
of 32-bit words; for each image width, height, length of its name, name; the words; a digest of
everything before (8).

The digests are no signatures: whoever makes a file can make them fit. So nothing that a file says
of itself is believed before it was checked against the file's length and the model.
"""

from __future__ import annotations

import hashlib
import json
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from rrvqlib.coding.tiles import MAX_TILES, Entry, count_tiles
from rrvqlib.data.pixels import MAX_PIXELS
from rrvqlib.errors import UserError
from rrvqlib.models.base import VAE

MAGIC, VERSION = b"RRVQ", 3
MODES = ("lossless", "lossy")
HEAD = struct.Struct("<4sBBHH8s8s8sII")
ENTRY = struct.Struct("<IIH")
DIGEST = 8
MAX_SIDE = 1 << 20
MAX_BYTES = 8 * MAX_PIXELS  # a picture that the model finds most unlikely takes some 6 a pixel
STEM_BYTES = 200  # of a name: an ending and a number still fit into the 255 of most systems
# Names of devices on Windows, whatever their ending.
DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}


@dataclass(frozen=True)
class Container:
    """What a file holds.

    Attributes:
        mode: of `MODES`.
        layers: how many of the topmost layers are kept; all of them when lossless.
        tile: side of the tiles, the model's image size.
        model: fingerprint of the model that wrote it.
        pixels: `pixel_digest` of all that comes out.
        first: `pixel_digest` of the tile that is decoded first, the last of all.
        entries: one for each image.
        words: uint32, of the coder.
    """

    mode: str
    layers: int
    tile: int
    model: bytes
    pixels: bytes
    first: bytes
    entries: tuple[Entry, ...]
    words: np.ndarray

    @property
    def tiles(self) -> int:
        """How many tiles all images are cut into."""
        return count_tiles(self.entries, self.tile)


def digest(*parts: bytes | memoryview) -> bytes:
    """The first bytes of the SHA-256 of all parts."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.digest()[:DIGEST]


def fingerprint(model: VAE) -> bytes:
    """Of a model's settings and weights, as stored in float32."""
    state = model.state_dict()
    weights = (state[name].float().cpu().numpy().tobytes() for name in sorted(state))
    settings = asdict(model.settings)
    # Files of before there was a choice stay this model's.
    for name, only_choice in (("image_channels", 3), ("classes", 0)):
        if settings[name] == only_choice:
            del settings[name]
    return digest(json.dumps(settings, sort_keys=True).encode(), *weights)


def pixel_digest(entries: Iterable[Entry], tiles: Sequence[Tensor]) -> bytes:
    """Of the sizes of all images and of their tiles, uint8 (c, S, S)."""
    sizes = (struct.pack("<II", entry.width, entry.height) for entry in entries)
    parts = (torch.stack(list(tiles[n : n + 1024])) for n in range(0, len(tiles), 1024))
    return digest(*sizes, *(part.numpy().data for part in parts))


def clean_name(name: str) -> str:
    """A file's name, fit for every disk and terminal: no folders, no control characters, no device.

    Foreign files choose their names. What is left is at most `STEM_BYTES` of UTF-8, its ending
    apart, and never empty.
    """
    name = PurePosixPath(name.replace("\\", "/")).name
    name = "".join("_" if c in '<>:"|?*' or not c.isprintable() else c for c in name).strip(" .")
    ending = PurePosixPath(name).suffix
    if len(ending.encode()) > 16:
        ending = ""
    stem = name.removesuffix(ending).encode()[:STEM_BYTES].decode(errors="ignore").strip(" .")
    if stem.split(".")[0].strip().casefold() in DEVICES:
        stem = "_" + stem
    return (stem or "image") + ending


def output_names(entries: Iterable[Entry]) -> list[str]:
    """A PNG file's name for each image, all different on every system.

    Some take A.png and a.png for one file, some two spellings of one accented letter.
    """
    names: list[str] = []
    taken: set[str] = set()
    stems = [Path(entry.name).stem for entry in entries]
    count = Counter(stems)
    for n, stem in enumerate(stems, start=1):
        name = stem if count[stem] == 1 else f"{stem}-{n}"
        while unicodedata.normalize("NFC", name).casefold() in taken:
            name += f"-{n}"
        taken.add(unicodedata.normalize("NFC", name).casefold())
        names.append(f"{name}.png")
    return names


def pack(container: Container) -> bytes:
    """The bytes of a file."""
    names = [clean_name(entry.name).encode() for entry in container.entries]
    head = HEAD.pack(
        MAGIC,
        VERSION,
        MODES.index(container.mode),
        container.layers,
        container.tile,
        container.model,
        container.pixels,
        container.first,
        len(names),
        len(container.words),
    )
    body = b"".join(
        ENTRY.pack(entry.width, entry.height, len(name)) + name
        for entry, name in zip(container.entries, names, strict=True)
    )
    data = head + body + container.words.astype("<u4").tobytes()
    return data + digest(data)


def read_file(path: Path) -> bytes:
    """The bytes of a file that `pack` may have made.

    Raises:
        UserError: it cannot be read, or is nothing of the kind.
    """
    try:
        # Not of a pipe or device, which may never end.
        if path.exists() and not path.is_file():
            raise UserError(f"cannot read {path} (no file); name another file")
        with path.open("rb") as file:
            begins = file.read(len(MAGIC))
            size = path.stat().st_size
            if begins == MAGIC and size > MAX_BYTES:
                raise UserError(
                    f"{path} has {size} bytes, more than {MAX_BYTES}; name another file"
                )
            return begins + file.read() if begins == MAGIC else begins
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); name another file") from None


def unpack(data: bytes, source: str) -> Container:
    """The inverse of `pack`; what is declared is bounded, but not yet checked against a model.

    Args:
        data: the whole file.
        source: its name, for messages.

    Raises:
        UserError: this is no such file, or not all of it, or not as it was written.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise UserError(f"{source} was not written by rrvqlib.compress; choose another file")
    whole = memoryview(data)
    if len(data) <= len(MAGIC) + DIGEST or digest(whole[:-DIGEST]) != whole[-DIGEST:]:
        raise UserError(f"{source} is damaged or incomplete; copy it anew")
    version = data[len(MAGIC)]
    if version != VERSION:
        remedy = "update rrvqlib" if version > VERSION else "write it anew"
        raise UserError(f"{source} has format {version}, this is format {VERSION}; {remedy}")
    try:
        _, _, mode, layers, tile, model, pixels, first, images, words = HEAD.unpack_from(data)
        if not (mode < len(MODES) and layers and tile and 0 < images <= MAX_TILES):
            raise ValueError
        if HEAD.size + ENTRY.size * images + 4 * words + DIGEST > len(data):
            raise ValueError
        entries, at = [], HEAD.size
        for _ in range(images):
            width, height, length = ENTRY.unpack_from(data, at)
            at += ENTRY.size
            if not 0 < min(width, height) <= max(width, height) <= MAX_SIDE:
                raise ValueError
            name = clean_name(data[at : at + length].decode())
            entries.append(Entry(name, width, height))
            at += length
        count_tiles(entries, tile)
        if at + 4 * words + DIGEST != len(data):
            raise ValueError
    except (struct.error, ValueError):
        raise UserError(f"{source} contradicts itself; write it anew") from None
    coded = np.frombuffer(data, "<u4", words, at)
    return Container(MODES[mode], layers, tile, model, pixels, first, tuple(entries), coded)


def check_model(container: Container, model: VAE, source: str) -> None:
    """Make sure that a file is this model's, and asks nothing of it that it does not have.

    Raises:
        UserError: it is not, or does.
    """
    if fingerprint(model) != container.model:
        raise UserError(f"{source} was written with another model; name that one's folder")
    side, layers = model.settings.image_size, model.settings.layers
    fewest = 1 if container.mode == "lossy" else layers
    if container.tile != side or not fewest <= container.layers <= layers:
        raise UserError(f"{source} contradicts itself; write it anew")
