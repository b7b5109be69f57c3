"""Draw images from a trained model: `python -m rrvqlib.sample DIR --n 64 --out samples.png`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from rrvqlib import cli
from rrvqlib.errors import UserError


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rrvqlib.sample",
        description="Ancestral samples, one pass from the top layer down; a PNG of all of them.",
    )
    cli.add_run_arguments(parser, with_data=False)
    parser.add_argument("--n", type=int, default=64, help="how many (default: 64)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="of the prior: 1 draws from the model, less draws likelier codes, 0"
        " takes the likeliest (default: 1)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="picture to write (default: samples.png)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if args.n < 1:
        raise UserError(f"--n {args.n}: must be at least 1")
    if not 0 <= args.temperature < math.inf:
        raise UserError(f"--temperature {args.temperature}: must be 0 or more")
    from rrvqlib.pictures import check_png, grid, sample_images, write_png
    from rrvqlib.run_folder import open_model

    check_png(args.out)
    images = sample_images(open_model(args), args.n, args.temperature, args.seed)
    write_png(args.out, grid(images, columns=math.ceil(math.sqrt(args.n))))
    print(f"{args.out}: {args.n} samples")


if __name__ == "__main__":
    cli.run(main)
