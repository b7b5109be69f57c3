"""What edge bins are worth: one model's score with either kind of outermost bins, stored as JSON.

python tools/measure_likelihoods.py cifar10-cpu --dataset npz:data/cifar10.npz \
    --out book/results/likelihood-cifar10.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from rrvqlib import cli, data
from rrvqlib.files import check_writable, write_json
from rrvqlib.models import build
from rrvqlib.models.ready import load
from rrvqlib.runs.scoring import score
from rrvqlib.settings import changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--dataset", required=True, help="as for rrvqlib.train")
    parser.add_argument("--images", type=int, default=1000, help="first test images (1000)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    cli.check_range("images", args.images, 1, 10**9, "a data set holds")
    check_writable(args.out)
    model = load(args.run)
    images = data.load(args.dataset).test[: args.images]
    scores = {}
    names = {"logistic-edge": "edge bins", "logistic": "Kingma's bins"}
    for likelihood, name in names.items():  # the same weights, the same draws
        twin = build(changed(model.settings, likelihood=likelihood))
        twin.load_state_dict(model.state_dict())
        scores[name] = score(twin, images)["bits_per_dim"]
    record = {
        "run": args.run.name,
        "trained_with": model.settings.likelihood.kind,
        "test_images": len(images),
        "bits_per_dim": scores,
        "difference": scores["Kingma's bins"] - scores["edge bins"],
        "torch": torch.__version__,
    }
    write_json(args.out, record)
    print(args.out)


if __name__ == "__main__":
    cli.run(lambda _: main())
