"""Say what is wrong with a run, in plain words: `python -m rrvqlib.diagnose DIR`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rrvqlib import cli
from rrvqlib.errors import UserError


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rrvqlib.diagnose",
        description="Looks for dead codes, collapsed or full layers, a hot temperature, a growing"
        " KL and skipped steps in the records of a run, finished or not.",
    )
    parser.add_argument("dir", type=cli.path_of("DIR"), metavar="DIR", help="folder of a run")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `argv` stands for the words behind its name."""
    args = make_parser().parse_args(argv)
    from rrvqlib.runs.folder import read_metrics, read_run_settings
    from rrvqlib.runs.health import findings

    metrics = read_metrics(args.dir)
    if not metrics:
        raise UserError(f"{args.dir} has no evaluation yet; wait for the first, or train longer")
    settings = read_run_settings(args.dir)
    layers = settings.model.layers
    for line in metrics:
        for name in ("kl_bits_per_dim", "perplexity"):
            if line[name] is not None and len(line[name]) != layers:
                raise UserError(
                    f"{args.dir}: run.json has {layers} layers and metrics.jsonl"
                    f" {len(line[name])}; copy both files of one run"
                )
    texts, last = findings(settings, metrics), metrics[-1]
    print(
        f"step {last['step']}: {last['valid_bits_per_dim']:.3f} bits/dim on validation images,"
        f" largest KL of a layer {last['largest_layer_kl']:.0f} nats,"
        f" gradient norm {last['grad_norm']:.2f}"
    )
    for text in texts:
        print(f"- {text}")
    if not texts:
        print("nothing stands out")


if __name__ == "__main__":
    cli.run(main)
