"""Pass images through a trained model: `python -m rrvqlib.reconstruct DIR`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rrvqlib import cli
from rrvqlib.words import number_of


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rrvqlib.reconstruct",
        description="Encode images into codes and decode them again; a PNG of pairs,"
        " reconstruction left, original right.",
    )
    cli.add_run_arguments(parser, with_data=True)
    parser.add_argument("--n", type=int, default=32, help="how many images (default: 32)")
    cli.add_picture(parser, "reconstructions.png")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `argv` stands for the words behind its name."""
    args = make_parser().parse_args(argv)
    cli.check_range("n", args.n, 1, 10_000, "one picture holds")
    from rrvqlib.data.loading import path_of
    from rrvqlib.runs.folder import find_dataset, open_images, open_model
    from rrvqlib.runs.pictures import check_png, grid, reconstruction_pairs, write_png

    cli.check_new(args.out, force=args.force, inputs=[args.dir])
    check_png(args.out)
    model = open_model(args)
    read = path_of(find_dataset(args)[0])
    cli.check_new(args.out, force=args.force, inputs=[read])
    images, what = open_images(args, model)
    pairs = reconstruction_pairs(model, images[: args.n], args.seed)
    write_png(args.out, grid(pairs, columns=8))
    cli.say(f"{args.out}: {number_of(len(pairs) // 2, 'pair')} from {what}")


if __name__ == "__main__":
    cli.run(main)
