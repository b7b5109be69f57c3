"""The models that come with the library: `python -m rrvqlib.models`, or `rrvq models`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from rrvqlib import cli
from rrvqlib.models.ready import LICENCE, READY, describe


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rrvqlib.models",
        description="List the models that come with the library. Their names stand for a run's"
        ' folder in every command, and in rrvqlib.load("NAME").',
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `argv` stands for the words behind its name."""
    args = make_parser().parse_args(argv)
    models = [describe(name) for name in READY]
    if args.json:
        print(json.dumps(models, indent=2))
        return
    print(f"{'name':<21}{'data':<9}{'pixels':<8}{'layers':>6}{'MB':>6}{'bits/dim':>10}  trained")
    for model in models:
        side = f"{model['image_size']}x{model['image_size']}"
        print(
            f"{model['name']:<21}{model['data']:<9}{side:<8}{model['layers']:>6}"
            f"{model['megabytes']:>6.1f}{model['bits_per_dim']:>10.3f}  {model['about']}"
        )
    print(f"\nWeights: {LICENCE}. Try one: rrvq sample {models[0]['name']}")


if __name__ == "__main__":
    cli.run(main)
