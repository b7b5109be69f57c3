"""Train a model: `python -m rrvqlib.train --run NAME --out DIR [--any-field value]`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from rrvqlib import cli
from rrvqlib.errors import UserError
from rrvqlib.runs.named import RUNS
from rrvqlib.settings.flat import changed
from rrvqlib.settings.run import RunSettings
from rrvqlib.words import number_of

EPILOG = """\
examples:
  python -m rrvqlib.train --out runs/first                 the two-minute default, on the CPU
  python -m rrvqlib.train --run cifar10-l32 --dry-run      what would it cost here?
  python -m rrvqlib.train --run cifar10-l32 --out runs/l32 --device cuda
  python -m rrvqlib.train --run cifar10-l32 --out runs/l32 --resume
  torchrun --nproc-per-node 2 -m -- rrvqlib.train --out runs/two
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        usage="python -m rrvqlib.train [--run NAME] --out DIR [--resume] [--dry-run]"
        " [--any-setting VALUE ...]",
        description="Train a model and write its run folder: weights, scores, pictures, log. The"
        " defaults shown hold unless the named run says otherwise.",
        epilog=EPILOG + "\nnamed runs:\n" + "\n".join(describe_runs()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--run",
        default="photos",
        metavar="NAME",
        help="named run whose settings"
        " the other flags change (default: photos; all are listed below)",
    )
    parser.add_argument("--out", type=cli.path_of("--out"), metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from DIR's checkpoint")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, FLOPs, memory and expected time, then stop",
    )
    cli.add_settings(parser, RunSettings)
    return parser


def describe_runs() -> list[str]:
    """A paragraph for each named run: what it is, its cost, its expected score."""
    return [f"  {name:<22} {run.cost}; {run.expect}" for name, run in RUNS.items()]


def check_nothing_is_overwritten(out: Path, *, resume: bool = False) -> None:
    """Raise UserError where a new run would replace files of an older one, or of the user.

    Args:
        out: the run folder.
        resume: whether the user takes it for a run to go on with.
    """
    from rrvqlib.models.weights import INDEX, OURS
    from rrvqlib.runs.checkpoint import CHECKPOINT

    kept = [CHECKPOINT, *OURS, INDEX, "results.json", "config.json"]
    kept += ["samples.png", "reconstructions.png"]
    if not is_run(out / "run.json"):  # a run killed before its first checkpoint may start anew
        kept += ["run.json", "metrics.jsonl"]
    found = [path.name for pattern in kept for path in sorted(out.glob(pattern))]
    if found:
        remedy = "add --resume to go on, or " if CHECKPOINT in found else ""
        why = "has nothing to resume, but holds" if resume else "holds"
        raise UserError(
            f"{out} {why} {found[0]}, which a new run would replace; {remedy}choose another --out"
        )


def check_apart(out: Path, dataset: str) -> None:
    """Raise UserError where a run would lie among the images that it is trained on."""
    from rrvqlib.data.loading import path_of

    images = path_of(dataset)
    if images and images.is_dir() and out.resolve().is_relative_to(images.resolve()):
        # Its samples would be taken for images, and the splits would move by as many.
        raise UserError(f"--out {out} lies among the images of {images}; choose another --out")


def check_out(out: Path, dataset: str, *, resume: bool) -> None:
    """Raise UserError where a run would be refused its folder; nothing is written."""
    from rrvqlib.runs.checkpoint import CHECKPOINT

    check_apart(out, dataset)
    if out.exists() and not out.is_dir():
        raise UserError(f"cannot write to {out} (it is no folder); choose another --out")
    if not (resume and (out / CHECKPOINT).exists()):
        check_nothing_is_overwritten(out, resume=resume)


@contextmanager
def writer(out: Path) -> Iterator[None]:
    """Make the folder and write there alone; what holds nothing in the end is taken back.

    Raises:
        UserError: it cannot be written to, or another training writes there.
    """
    from rrvqlib.files import LOCK, only_writer, prepare_directory

    new = [folder for folder in (out, *out.parents) if not os.path.lexists(folder)]
    try:
        prepare_directory(out)
        with only_writer(out):
            try:
                yield
            finally:  # with the lock in hand: another training's stays
                with suppress(OSError):
                    if [path.name for path in out.iterdir()] == [LOCK]:
                        (out / LOCK).unlink()
    finally:
        with suppress(OSError):  # the first one that holds something
            for folder in new:
                folder.rmdir()


def is_run(path: Path) -> bool:
    """Whether a file is the `run.json` that training writes."""
    from rrvqlib.files import read_json

    try:
        description = read_json(path)
    except UserError:
        return False
    return isinstance(description, dict) and {"command", "settings"} <= description.keys()


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `argv` stands for the words behind its name."""
    args = make_parser().parse_args(argv)
    cli.not_empty("--run", args.run)
    if args.run not in RUNS:
        raise UserError(f"--run {args.run}: no such run; choose one of {', '.join(RUNS)}")
    settings = changed(RUNS[args.run].settings, **cli.read_settings(args, RunSettings))
    if args.dry_run:
        from rrvqlib.optimisation.costs import estimate, show
        from rrvqlib.optimisation.start import check_start

        if args.out is not None:
            check_out(args.out, settings.data.dataset, resume=args.resume)
        check_start(settings)
        show(args.run, RUNS[args.run], estimate(settings))
        return
    if args.out is None:
        raise UserError("--out DIR is missing: name a folder for the run, such as --out runs/first")
    from rrvqlib.files import prepare_directory
    from rrvqlib.optimisation.signals import Stopped
    from rrvqlib.optimisation.whole_run import train
    from rrvqlib.runs.checkpoint import CHECKPOINT

    check_apart(args.out, settings.data.dataset)
    # Of the processes that torchrun starts, the first one writes.
    writes = os.environ.get("RANK", "0") == "0"
    try:
        with writer(args.out) if writes else nullcontext():
            prepare_directory(args.out)
            # A run that was killed before its first checkpoint begins again, so that the same
            # command, repeated, comes to the end whatever happens on the way.
            resume = args.resume and (args.out / CHECKPOINT).exists()
            if not resume:
                check_nothing_is_overwritten(args.out, resume=args.resume)
            if args.resume and not resume and writes:
                cli.say(f"{args.out} has no checkpoint yet: starting at step 0", error=True)
            results = train(settings, args.out, args.run, resume=resume)
    except Stopped as stopped:
        cli.say(str(stopped), error=True)
        raise SystemExit(stopped.code) from None
    if results:
        error = cli.error_in_words(results["test_bits_per_dim_se"], 3)
        cli.say(
            f"{args.out}: test {results['test_bits_per_dim']:.3f} bits/dim"
            f" (standard error {error},"
            f" {number_of(results['n_test'], 'image')}), training images"
            f" {results['train_bits_per_dim']:.3f}"
        )


if __name__ == "__main__":
    cli.run(main)
