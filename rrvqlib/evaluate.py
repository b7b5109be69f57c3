"""Score a trained model: `python -m rrvqlib.evaluate DIR [--dataset ...] [--split ...]`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

from rrvqlib import cli
from rrvqlib.errors import UserError
from rrvqlib.words import number_of


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rrvqlib.evaluate",
        description="Bits per dim (lower is better) of a trained model, with unrelaxed categorical"
        " samples: the one-sample ELBO over a split, its standard error, KL and codebook"
        " perplexity of every layer (l=1, nearest the pixels, first), PSNR and SSIM of"
        " reconstructions, and the importance-weighted bound.",
    )
    cli.add_run_arguments(parser, with_data=True)
    parser.add_argument(
        "--limit", type=int, default=0, help="only the first images (default: 0, all)"
    )
    parser.add_argument(
        "--iw_k",
        type=int,
        default=0,
        metavar="K",
        help="samples per image of the importance-weighted bound (default: 0, none)",
    )
    parser.add_argument(
        "--iw_images", type=int, help="first images it is computed on (default: 500)"
    )
    parser.add_argument("--batch_size", type=int, default=100, help="images at a time")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `argv` stands for the words behind its name."""
    args = make_parser().parse_args(argv)
    cli.check_range("limit", args.limit, 0, 10**9, "a data set holds")
    cli.check_range("iw_k", args.iw_k, 0, 100_000, "a bound needs: it gains nothing beyond")
    if args.iw_images is not None and not args.iw_k:
        raise UserError("--iw_images: is of the importance-weighted bound; give --iw_k, too")
    iw_images = 500 if args.iw_images is None else args.iw_images
    cli.check_range("iw_images", iw_images, 1, 10**9, "a data set holds")
    cli.check_range("batch_size", args.batch_size, 1, 1_000_000, "any memory holds")
    from rrvqlib.numerics import no_number
    from rrvqlib.runs.folder import open_images, open_model
    from rrvqlib.runs.records import COMPARED_IMAGES, UNTOLD_IMAGES
    from rrvqlib.runs.scoring import (
        importance_weighted_score,
        likeness,
        score,
        score_over_classes,
    )

    model = open_model(args)
    images, labels, what = open_images(args, model)

    def first(count: int | None) -> dict[str, Any]:
        few = min(count or len(images), args.limit or len(images))
        return {
            "images": images[:few],
            "labels": None if labels is None else labels[:few],
            "batch_size": args.batch_size,
            "seed": args.seed,
        }

    results = {"data": what, **score(model, **first(None), title="scoring")}
    results |= likeness(model, **first(COMPARED_IMAGES), title="reconstructions")
    if labels is not None:
        results |= score_over_classes(model, **first(UNTOLD_IMAGES), title="class untold")
    if args.iw_k:
        bound = importance_weighted_score(
            model, **first(iw_images), k=args.iw_k, title="importance-weighted bound"
        )
        results |= {
            "iw_bits_per_dim": bound["bits_per_dim"],
            "iw_bits_per_dim_se": bound["bits_per_dim_se"],
            "iw_elbo_bits_per_dim": bound["elbo"],
            "iw_k": args.iw_k,
            "iw_n": bound["n"],
        }
    bad = [name for name, value in results.items() if not finite(value)]
    if bad:
        raise no_number(", ".join(bad))
    if args.json:
        print(json.dumps(results, indent=2, allow_nan=False))
    else:
        show(results)


def finite(value: object) -> bool:
    """Whether a result, or each of several, is no NaN and not infinite."""
    if isinstance(value, list):
        return all(finite(part) for part in value)
    return not isinstance(value, float) or math.isfinite(value)


def show(results: dict) -> None:
    """Print results for people."""
    error = cli.error_in_words(results["bits_per_dim_se"], 4)
    print(
        f"{results['data']}: {results['bits_per_dim']:.4f} bits/dim"
        f" (standard error {error}, {number_of(results['n'], 'image')})"
    )
    if "iw_k" in results:
        error = cli.error_in_words(results["iw_bits_per_dim_se"], 4)
        print(
            f"importance-weighted bound: {results['iw_bits_per_dim']:.4f} bits/dim (standard error"
            f" {error}, {number_of(results['iw_k'], 'sample')},"
            f" first {number_of(results['iw_n'], 'image')}; the ELBO of these:"
            f" {results['iw_elbo_bits_per_dim']:.4f})"
        )
    if "class_n" in results:
        error = cli.error_in_words(results["class_averaged_bits_per_dim_se"], 4)
        print(
            f"not told the class: {results['class_averaged_bits_per_dim']:.4f} bits/dim (standard"
            f" error {error}, first {number_of(results['class_n'], 'image')}; told, these:"
            f" {results['class_told_bits_per_dim']:.4f}); it guesses"
            f" {100 * results['class_guessed']:.0f} % of the classes"
        )
    if results["psnr_db"] is not None:
        ssim = "" if results["ssim"] is None else f", SSIM {results['ssim']:.3f}"
        print(
            f"reconstructions: PSNR {results['psnr_db']:.1f} dB{ssim}"
            f" (first {number_of(results['likeness_n'], 'image')})"
        )
    print("layer  KL in bits/dim" + ("  perplexity  codes in use" if results["perplexity"] else ""))
    for index, kl in enumerate(results["kl_bits_per_dim"]):
        row = f"{index + 1:>5}  {kl:>14.4f}"
        if results["perplexity"]:
            row += f"  {results['perplexity'][index]:>10.1f}  {results['codes_in_use'][index]:>12}"
        print(row)


if __name__ == "__main__":
    cli.run(main)
