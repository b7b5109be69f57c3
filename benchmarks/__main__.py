"""Time the library against simpler code and a peer package: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import SIZES
from rrvqlib import cli
from rrvqlib.errors import UserError

if TYPE_CHECKING:
    from benchmarks.timing import Timing

NAMES = ("training", "responsibilities", "nearest", "groups", "draws", "coding")


def measure(name: str, size: str, repeats: int, device: str) -> list[Timing]:
    """The timings of one benchmark; the first is the library's own."""
    from benchmarks import coding, quantisers, training

    if name == "training":
        return training.training_step(repeats, device)
    if name == "coding":
        return coding.coding(repeats)
    try:
        return getattr(quantisers, name)(size, repeats, device)
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: pip install vector-quantize-pytorch"
        ) from None


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times in milliseconds, and as ratios to the first row of each table. Ways of"
        " doing one thing take turns, so that other load hits them alike.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=", ".join(NAMES) + " (default: all)"
    )
    parser.add_argument(
        "--size",
        default="layer",
        choices=tuple(SIZES),
        help="of the quantisers' inputs N, K, D: "
        + ", ".join(f"{k} {v}" for k, v in SIZES.items()),
    )
    parser.add_argument("--repeats", type=int, default=11, help="of every way (default: 11)")
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: its own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if unknown := set(args.names) - set(NAMES):
        raise UserError(f"no benchmark {', '.join(sorted(unknown))}; choose of {', '.join(NAMES)}")
    cores = os.cpu_count() or 1
    if args.repeats < 1 or not 0 <= args.threads <= cores:
        raise UserError(f"--repeats must be at least 1 and --threads from 0 to {cores}, the cores")
    import torch

    from benchmarks.training import BATCH, peak_memory_mib
    from rrvqlib.files import check_writable

    if args.json:
        check_writable(args.json)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = {
        "torch": torch.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
        "size": dict(zip("NKD", SIZES[args.size], strict=True)),
    }
    print(f"torch {torch.__version__}, {device}, {results['threads']} threads, {results['size']}")
    for name in args.names or NAMES:
        timings = measure(name, args.size, args.repeats, device)
        results[name] = [asdict(t) for t in timings]
        print(f"\n{name:<28}{'median':>9}{'least':>9}{'most':>9} ms   ratio")
        for t in timings:
            ratio = t.median / timings[0].median
            print(f"{t.name:<28}{t.median:>9.2f}{t.least:>9.2f}{t.most:>9.2f}    {ratio:>6.2f}")
        if name == "training":  # first, before anything else needs memory
            results["peak_memory_mib"] = peak_memory_mib(device)
            print(f"a step of {BATCH} images; peak {results['peak_memory_mib']:.0f} MiB")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
