"""Images to a file and back, with a trained model: `python -m rrvqlib.compress encode|decode`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rrvqlib import cli
from rrvqlib.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rrvqlib.compress",
        description="Compress images with a trained hierarchy: without loss (bits-back coding), or"
        " by the codes of its topmost layers. Images of any size are cut into tiles of the"
        " model's.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="encode|decode")
    encode = commands.add_parser("encode", help="images -> a file")
    decode = commands.add_parser("decode", help="a file -> images")
    for command in (encode, decode):
        command.add_argument("model", type=Path, metavar="MODEL", help="folder of a run")
    encode.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="picture files")
    encode.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    encode.add_argument(
        "--lossy",
        action="store_true",
        help="send codes alone; the pictures that come out are reconstructions",
    )
    encode.add_argument(
        "--layers",
        type=int,
        metavar="N",
        help="lossy: keep the N topmost layers of codes (default: all)",
    )
    decode.add_argument("file", type=Path, metavar="FILE", help="what encode has written")
    decode.add_argument(
        "--out",
        type=Path,
        default=Path("."),
        metavar="DIR",
        help="folder for the PNG files, named as the images were (default: this one)",
    )
    return parser


def read_image(path: Path) -> Tensor:
    """A picture file as uint8 (3, H, W), upright.

    Raises:
        UserError: it cannot be read, or the file would not give back all that is in it.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            lost = what_is_lost(file)
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a picture file") from None
    # Each of Pillow's decoders raises its own kinds on a damaged file.
    except Exception as error:
        raise UserError(f"{path} cannot be read as a picture ({error}); name another") from None
    if lost:
        raise UserError(f"{path} has {lost}; convert it to one opaque 8-bit RGB picture first")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def what_is_lost(file: Image.Image) -> str:
    """What in a picture just opened has no place among 8-bit RGB pixels; empty if nothing."""
    from rrvqlib.data import has_deep_pixels

    if has_deep_pixels(file):
        return "more than 8 bits per pixel and channel"
    if file.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        return f"colours of the kind {file.mode}"
    if getattr(file, "n_frames", 1) > 1:
        return f"{file.n_frames} frames"
    if file.has_transparency_data and file.convert("RGBA").getextrema()[3][0] < 255:
        return "transparent pixels"
    return ""


def encode(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from rrvqlib.checkpoint import check_writable, load_model, write_atomically
    from rrvqlib.codec import Codec
    from rrvqlib.container import (
        MAGIC,
        MAX_SIDE,
        Container,
        Entry,
        cut,
        fingerprint,
        join,
        pack,
        pixel_digest,
    )

    check_writable(args.out)
    if args.out.is_file():  # a slip such as `--out a.png b.png` must not cost a picture
        with args.out.open("rb") as file:
            if file.read(len(MAGIC)) not in (MAGIC, b""):
                raise UserError(
                    f"{args.out} was not written by rrvqlib.compress; choose another --out"
                )
    model = load_model(args.model)
    codec, side = Codec(model), model.config.image_size
    layers = codec.layers if args.layers is None else args.layers
    if not 1 <= layers <= codec.layers:
        raise UserError(f"--layers {layers}: this model has 1 to {codec.layers}")
    if args.layers is not None and not args.lossy:
        raise UserError("--layers keeps a part of the codes; add --lossy")
    images = [read_image(path) for path in args.images]
    for path, image in zip(args.images, images, strict=True):
        if max(image.shape) > MAX_SIDE:
            raise UserError(f"{path} is longer than {MAX_SIDE} pixels; cut it in two")
    entries = tuple(
        Entry(path.name, image.shape[2], image.shape[1])
        for path, image in zip(args.images, images, strict=True)
    )
    tiles = [tile for image in images for tile in cut(image, side)]
    bar = tqdm(tiles, desc="encoding", unit="tile", disable=None)
    if args.lossy:
        coded, seen = codec.encode_codes(bar, layers)
        decoded = join(seen, entries)
    else:
        coded, decoded = codec.encode(bar), images
    mode = "lossy" if args.lossy else "lossless"
    marks = fingerprint(model), pixel_digest(decoded)
    data = pack(Container(mode, layers, side, *marks, entries, coded.words))
    write_atomically(args.out, lambda temporary: temporary.write_bytes(data))
    dims = sum(image.numel() for image in images)
    plural = "image" if len(images) == 1 else "images"
    rate = 8 * len(data) / dims
    text = f"{args.out}: {len(images)} {plural}, {len(data)} bytes, {rate:.3f} bits/dim"
    if args.lossy:
        pairs = zip(images, decoded, strict=True)
        error = sum((a.float() - b.float()).square().sum().item() for a, b in pairs)
        quality = 10 * math.log10(255**2 * dims / error) if error else math.inf
        print(f"{text}, {quality:.1f} dB PSNR with {layers} of {codec.layers} layers")
    else:
        print(f"{text}; net {coded.net_bits / dims:.3f}, and {coded.initial_bits} initial bits")


def decode(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from rrvqlib.checkpoint import load_model, prepare_directory
    from rrvqlib.codec import DECODE_REMEDY, Codec
    from rrvqlib.container import fingerprint, join, pixel_digest, unpack
    from rrvqlib.pictures import write_png

    try:
        data = args.file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {args.file} ({error.strerror}); name another file") from None
    container = unpack(data, str(args.file))
    model = load_model(args.model)
    if fingerprint(model) != container.model:
        raise UserError(f"{args.file} was written with another model; name that one's folder")
    stems = [Path(entry.name).stem for entry in container.entries]
    names: list[str] = []
    for n, stem in enumerate(stems, start=1):
        name = stem if stems.count(stem) == 1 else f"{stem}-{n}"
        # Some systems take A.png and a.png for one file.
        while f"{name}.png".casefold() in (other.casefold() for other in names):
            name += f"-{n}"
        names.append(f"{name}.png")
    prepare_directory(args.out)
    for name in names:
        if (args.out / name).exists():
            raise UserError(f"{args.out / name} exists; choose another --out")
    codec = Codec(model)
    with tqdm(total=container.tiles, desc="decoding", unit="tile", disable=None) as bar:
        if container.mode == "lossy":
            tiles = codec.decode_codes(
                container.words, container.tiles, container.layers, bar.update
            )
        else:
            tiles = codec.decode(container.words, container.tiles, bar.update)
    images = join(tiles, container.entries)
    if pixel_digest(images) != container.pixels:
        # Intact file, right model: then this machine's arithmetic is not that of the writer.
        raise UserError(f"{args.file} comes out otherwise than it went in; {DECODE_REMEDY}")
    written = []
    try:
        for name, image in zip(names, images, strict=True):
            write_png(args.out / name, image)
            written.append(args.out / name)
    except BaseException:  # a full disk: some pictures alone would stand in the next try's way
        for path in written:
            path.unlink(missing_ok=True)
        raise
    print(f"{args.out}: {', '.join(names)}")


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    {"encode": encode, "decode": decode}[args.command](args)


if __name__ == "__main__":
    cli.run(main)
