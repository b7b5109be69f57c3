"""By how many dB the codes of ready models beat JPEG and WebP, picture by picture; write JSON.

python tools/measure_gains.py --cifar10 npz:data/cifar10.npz --out FILE

Every picture's codes are priced by the prior. The rival's quality at a payload of as many bits is
read off its own curve for that picture. What is kept is the mean difference over pictures, its
standard error, and how many pictures the codes win.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from stored_record import store

from rrvqlib import cli, data
from rrvqlib.coding.codec import Codec
from rrvqlib.files import check_writable
from rrvqlib.models.ready import load
from rrvqlib.teaching.formats import gains, jpeg, webp

COUNTS = {"cifar10": 500, "photos": 500, "photos64": 150}  # as many as measure_compression.py took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", required=True, help="a data set, as in rrvqlib.train")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    check_writable(args.out)
    result = {}
    for name, dataset, model, side in (
        ("cifar10", args.cifar10, "cifar10-cpu", 32),
        ("photos", "photos", "cifar10-cpu", 32),
        ("photos64", "photos", "photos64-l5-cpu", 64),
    ):
        images = data.load(dataset, "data", side).test[: COUNTS[name]]
        codec, result[name] = Codec(load(model)), {"model": model, "images": len(images)}
        for rival, coder in (("jpeg", jpeg), ("webp", webp)):
            found = torch.tensor(gains(codec, images, coder), dtype=torch.float64)
            result[name][rival] = {
                "mean_db": found.mean().item(),
                "se_db": (found.std() / len(found) ** 0.5).item(),
                "sd_db": found.std().item(),
                "won": int((found > 0).sum()),
            }
    store(args.out, result)


if __name__ == "__main__":
    cli.run(lambda _: main())
