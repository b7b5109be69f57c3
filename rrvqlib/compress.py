"""Images to a file and back, with a trained model: `python -m rrvqlib.compress encode|decode`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rrvqlib import cli
from rrvqlib.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rrvqlib.coding.codec import Codec
    from rrvqlib.coding.container import Container


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
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
        command.add_argument(
            "model", type=cli.model_of("MODEL"), metavar="MODEL", help=cli.MODEL_HELP
        )
        cli.add_force(command)
    encode.add_argument(
        "images", type=cli.path_of("IMAGE"), nargs="+", metavar="IMAGE", help="picture files"
    )
    encode.add_argument(
        "--out", type=cli.path_of("--out"), required=True, metavar="FILE", help="file to write"
    )
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
    decode.add_argument(
        "file", type=cli.path_of("FILE"), metavar="FILE", help="what encode has written"
    )
    decode.add_argument(
        "--out",
        type=cli.path_of("--out"),
        default=Path("."),
        metavar="DIR",
        help="folder for the PNG files, named as the images were (default: this one)",
    )
    return parser


def read_exactly(path: Path, channels: int = 3) -> Tensor:
    """A picture file as uint8 (c, H, W), upright; what it drops besides pixels is said.

    Raises:
        UserError: it cannot be read, or these pixels are not all that it shows.
    """
    import torch

    from rrvqlib.data.reader import read_picture

    picture = read_picture(path)
    if picture.lost:
        lost = ", ".join(picture.lost)
        raise UserError(f"{path} has {lost}; convert it to one opaque 8-bit RGB picture first")
    if channels == 1 and not picture.is_grey:
        raise UserError(f"{path} is in colour, the model is for grey pictures; choose another")
    dropped = [what for what in picture.dropped if channels == 3 or what != "being grey"]
    if dropped:
        cli.say(f"{path}: every pixel is kept; {', '.join(dropped)} is not", error=True)
    return torch.from_numpy(picture.pixels[..., :channels]).permute(2, 0, 1)


def encode(args: argparse.Namespace) -> None:
    """Images -> a file."""
    from tqdm import tqdm

    from rrvqlib.coding.codec import Codec
    from rrvqlib.coding.container import MAX_SIDE, Container, fingerprint, pack, pixel_digest
    from rrvqlib.coding.tiles import Entry, count_tiles, cut, join
    from rrvqlib.files import check_writable, write_atomically
    from rrvqlib.models.saved import load_model
    from rrvqlib.runs.similarity import psnr

    cli.check_new(args.out, force=args.force, inputs=[args.model, *args.images])
    check_writable(args.out)
    model = load_model(args.model)
    codec, side = Codec(model), model.settings.image_size
    most = len(codec.layers)
    layers = most if args.layers is None else args.layers
    if not 1 <= layers <= most:
        raise UserError(f"--layers {layers}: this model has 1 to {most}")
    if args.layers is not None and not args.lossy:
        raise UserError("--layers keeps a part of the codes; add --lossy")
    images: list[Tensor] = []
    entries: list[Entry] = []
    for path in args.images:
        images.append(read_exactly(path, model.settings.image_channels))
        _, height, width = images[-1].shape
        if max(height, width) > MAX_SIDE:
            raise UserError(f"{path} is longer than {MAX_SIDE} pixels; cut it in two")
        entries.append(Entry(path.name, width, height))
        try:
            count_tiles(entries, side)
        except ValueError as error:
            raise UserError(f"{error} up to {path}; write several files") from None
    tiles = [tile for image in images for tile in cut(image, side)]
    bar = tqdm(tiles, desc="encoding", unit="tile", disable=None)
    if args.lossy:
        coded, seen = codec.encode_codes(bar, layers)
        decoded = join(seen, entries)
    else:
        coded, seen, decoded = codec.encode(bar), tiles, iter(images)
    mode = "lossy" if args.lossy else "lossless"
    marks = fingerprint(model), pixel_digest(entries, seen), pixel_digest((), seen[-1:])
    data = pack(Container(mode, layers, side, *marks, tuple(entries), coded.words))
    write_atomically(args.out, lambda temporary: temporary.write_bytes(data))
    dims = sum(image.numel() for image in images)
    plural = "image" if len(images) == 1 else "images"
    rate = 8 * len(data) / dims
    text = f"{args.out}: {len(images)} {plural}, {len(data)} bytes, {rate:.3f} bits/dim"
    if args.lossy:
        cli.say(f"{text}, {psnr(images, decoded):.1f} dB PSNR with {layers} of {most} layers")
    else:
        cli.say(f"{text}; net {coded.net_bits / dims:.3f}, and {coded.initial_bits} initial bits")


def decode(args: argparse.Namespace) -> None:
    """A file -> images."""
    from rrvqlib.coding.codec import Codec
    from rrvqlib.coding.container import check_model, output_names, read_file, unpack
    from rrvqlib.files import prepare_directory
    from rrvqlib.models.saved import load_model
    from rrvqlib.runs.pictures import write_png

    source = str(args.file)
    container = unpack(read_file(args.file), source)
    model = load_model(args.model)
    check_model(container, model, source)
    names = output_names(container.entries)
    paths = [args.out / name for name in names]
    for path in paths:
        cli.check_new(path, force=args.force, inputs=[args.model, args.file])
    prepare_directory(args.out)
    written = []
    try:
        for path, image in zip(paths, decode_images(container, Codec(model), source), strict=True):
            new = not path.exists()
            write_png(path, image)
            written += [path] if new else []
    except BaseException:  # a full disk: some pictures alone would stand in the next try's way
        for path in written:
            path.unlink(missing_ok=True)
        raise
    cli.say(f"{args.out}: {', '.join(names)}")


def decode_images(container: Container, codec: Codec, source: str) -> Iterator[Tensor]:
    """The images of a file, uint8 (c, H, W), once all of them were found to be right.

    Raises:
        UserError: they are not those that were written.
    """
    from tqdm import tqdm

    from rrvqlib.coding.container import pixel_digest
    from rrvqlib.coding.stack import DECODE_REMEDY
    from rrvqlib.coding.tiles import join

    # Intact file, right model: then this machine's arithmetic is not that of the writer.
    other = UserError(f"{source} comes out otherwise than it went in; {DECODE_REMEDY}")
    expected = [container.first]
    with tqdm(total=container.tiles, desc="decoding", unit="tile", disable=None) as bar:

        def done(tile: Tensor) -> None:
            if expected and pixel_digest((), [tile]) != expected.pop():
                raise other
            bar.update()

        if container.mode == "lossy":
            tiles = codec.decode_codes(container.words, container.tiles, container.layers, done)
        else:
            tiles = codec.decode(container.words, container.tiles, done)
    if pixel_digest(container.entries, tiles) != container.pixels:
        raise other
    yield from join(tiles, container.entries)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `argv` stands for the words behind its name."""
    args = make_parser().parse_args(argv)
    {"encode": encode, "decode": decode}[args.command](args)


if __name__ == "__main__":
    cli.run(main)
