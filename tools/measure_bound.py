"""The importance-weighted bound of a stored run, its error, and the ELBO on the same images.

Runs write all three into results.json themselves; this is for those that are older.

python tools/measure_bound.py book/results/cifar10-cpu --dataset npz:data/cifar10.npz
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from rrvqlib import data
from rrvqlib.checkpoint import load_model
from rrvqlib.scoring import importance_weighted_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run, with its weights")
    parser.add_argument("--dataset", required=True, help="as for rrvqlib.train")
    args = parser.parse_args()
    results = json.loads((args.run / "results.json").read_text())
    images = data.load(args.dataset).test[: results["iw_n"]]
    found = importance_weighted_score(load_model(args.run), images, results["iw_k"])
    record = {
        "iw_bits_per_dim": found["bits_per_dim"],
        "iw_bits_per_dim_se": found["bits_per_dim_se"],
        "iw_elbo_bits_per_dim": found["elbo"],
        "iw_k": results["iw_k"],
        "iw_n": found["n"],
        "torch": torch.__version__,
    }
    out = args.run / "bound.json"
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(out)


if __name__ == "__main__":
    main()
