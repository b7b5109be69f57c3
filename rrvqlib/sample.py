"""Draw images from a trained model: `python -m rrvqlib.sample DIR --n 64 --out samples.png`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from rrvqlib import cli
from rrvqlib.errors import UserError
from rrvqlib.words import number_of

SAMPLES = 64


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rrvqlib.sample",
        description="Ancestral samples, one pass from the top layer down; a PNG of all of them.",
    )
    cli.add_run_arguments(parser, with_data=False)
    parser.add_argument(
        "--n", type=int, help=f"how many (default: {SAMPLES}; with classes whole rows of them)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="of the prior: 1 draws from the model, less draws likelier codes, 0"
        " takes the likeliest (default: 1)",
    )
    parser.add_argument(
        "--class",
        dest="label",
        metavar="CLASS",
        help="of a model with classes: the name or number of one (default: all in turn, each in"
        " columns of its own)",
    )
    cli.add_picture(parser, "samples.png")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `argv` stands for the words behind its name."""
    args = make_parser().parse_args(argv)
    if args.n is not None:
        cli.check_range("n", args.n, 1, 10_000, "one picture holds")
    if not 0 <= args.temperature < math.inf:
        raise UserError(f"--temperature {args.temperature}: must be 0 or more, and finite")
    from rrvqlib.runs.folder import label_of, open_model
    from rrvqlib.runs.pictures import (
        check_grid,
        check_png,
        grid,
        sample_columns,
        sample_images,
        whole_rows,
        write_png,
    )

    cli.check_new(args.out, force=args.force, inputs=[args.dir])
    check_png(args.out)
    model = open_model(args)
    one_class = args.label is not None
    n = args.n or (SAMPLES if one_class else whole_rows(model.settings.classes, SAMPLES))
    labels = label_of(args.dir, model, args.label).expand(n) if one_class else None
    columns = math.ceil(math.sqrt(n)) if one_class else sample_columns(model.settings.classes, n)
    side = model.settings.image_size
    check_grid(n, columns, (side, side))
    images = sample_images(model, n, args.temperature, args.seed, labels)
    write_png(args.out, grid(images, columns))
    cli.say(f"{args.out}: {number_of(n, 'sample')}")


if __name__ == "__main__":
    cli.run(main)
