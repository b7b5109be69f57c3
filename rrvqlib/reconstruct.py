"""Pass images through a trained model: `python -m rrvqlib.reconstruct MODEL [IMAGE ...]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rrvqlib import cli
from rrvqlib.errors import UserError
from rrvqlib.words import number_of

if TYPE_CHECKING:
    from rrvqlib.coding.whole_pictures import Rebuilt
    from rrvqlib.models.base import VAE


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rrvqlib.reconstruct",
        description="Encode images into codes and decode them again. Of a data set: a PNG of pairs,"
        " reconstruction left, original right. Of picture files of any size: each as it comes back"
        " from the codes of ever more layers, the top one first, with bits per dim, PSNR and SSIM.",
    )
    cli.add_run_arguments(parser, with_data=True)
    parser.add_argument(
        "images", type=cli.path_of("IMAGE"), nargs="*", metavar="IMAGE", help="picture files"
    )
    parser.add_argument("--n", type=int, default=32, help="how many of a data set (default: 32)")
    parser.add_argument(
        "--longest",
        type=int,
        default=512,
        metavar="PIXELS",
        help="shrink picture files that are longer; 0 shrinks none (default: 512)",
    )
    cli.add_picture(parser, "reconstructions.png")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `argv` stands for the words behind its name."""
    args = make_parser().parse_intermixed_args(argv)  # files may stand behind the flags
    cli.check_range("n", args.n, 1, 10_000, "one picture holds")
    cli.check_range("longest", args.longest, 0, 1 << 13, "a picture holds")
    if args.images and args.dataset:
        raise UserError("picture files and --dataset: give one of them")
    from rrvqlib.runs.folder import open_model
    from rrvqlib.runs.pictures import check_png

    cli.check_new(args.out, force=args.force, inputs=[args.dir, *args.images])
    check_png(args.out)
    of_files(args, open_model(args)) if args.images else of_data(args, open_model(args))


def of_data(args: argparse.Namespace, model: VAE) -> None:
    """A picture of pairs from a data set."""
    from rrvqlib.data.loading import path_of
    from rrvqlib.runs.folder import find_dataset, open_images
    from rrvqlib.runs.pictures import grid, reconstruction_pairs, write_png

    read = path_of(find_dataset(args)[0])
    cli.check_new(args.out, force=args.force, inputs=[read])
    images, labels, what = open_images(args, model)
    some = None if labels is None else labels[: args.n]
    pairs = reconstruction_pairs(model, images[: args.n], args.seed, some)
    write_png(args.out, grid(pairs, columns=8))
    cli.say(f"{args.out}: {number_of(len(pairs) // 2, 'pair')} from {what}")


def of_files(args: argparse.Namespace, model: VAE) -> None:
    """A poster of each picture file, one below the other, and their numbers."""
    from rrvqlib.coding.whole_pictures import below_each_other, poster, read_whole, rebuild
    from rrvqlib.runs.pictures import write_png

    posters = []
    for path in args.images:
        picture, size = read_whole(path, args.longest, model.settings.image_channels)
        rebuilt = rebuild(model, picture, args.seed, path.name)
        posters.append(poster(rebuilt))
        show(path, size, rebuilt, model.settings.image_size)
    write_png(args.out, below_each_other(posters))
    cli.say(str(args.out))


def show(path: Path, size: tuple[int, int], rebuilt: Rebuilt, side: int) -> None:
    """Print what a picture costs, and how alike it comes back from each number of layers."""
    from rrvqlib.runs.similarity import WINDOW, psnr, ssim

    _, height, width = rebuilt.original.shape
    shrunk = f", shrunk to {width}x{height}" if size != (width, height) else ""
    cli.say(
        f"{path}: {size[0]}x{size[1]} pixels{shrunk}, {number_of(rebuilt.tiles, 'tile')} of"
        f" {side}x{side}; {rebuilt.bits_per_dim:.3f} bits/dim without loss"
    )
    print("layers kept  bits/dim of codes  PSNR in dB  SSIM")
    for number, picture, bits in zip(
        rebuilt.kept, rebuilt.pictures, rebuilt.code_bits_per_dim, strict=True
    ):
        both = [rebuilt.original], [picture]
        alike = f"{ssim(*both):.3f}" if min(height, width) >= WINDOW else "-"
        print(f"{number:>11}  {bits:>17.4f}  {psnr(*both):>10.1f}  {alike}")


if __name__ == "__main__":
    cli.run(main)
