"""Where the bits of test images go, stored as JSON: to each channel given those before, and codes.

python tools/measure_colours.py RUN [RUN ...] --dataset npz:PATH --out book/results/colours.json
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from rrvqlib import cli, data
from rrvqlib.files import check_writable, write_json
from rrvqlib.models import VAE
from rrvqlib.models.ready import load
from rrvqlib.runs.records import hardware, versions
from rrvqlib.runs.scoring import seeded
from rrvqlib.teaching import bits_of_channels

BATCH = 100


@torch.no_grad()
def where_the_bits_go(model: VAE, images: torch.Tensor) -> dict[str, object]:
    """Bits per dim of red, green and blue, and of every layer of latents."""
    dims = model.settings.dims
    with seeded(0):
        channels = torch.cat([bits_of_channels(model, part) for part in images.split(BATCH)])
    with seeded(0):
        kl = torch.cat([model(part, None).kl for part in images.split(BATCH)])
    return {
        "likelihood": model.settings.likelihood.kind,
        "latent": model.settings.latent.kind,
        "channels": (channels.sum((2, 3)).mean(0) / dims).tolist(),
        "layers": (kl.mean(0) / math.log(2) / dims).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders with weights")
    parser.add_argument("--dataset", required=True, help="as in rrvqlib.train")
    parser.add_argument("--images", type=int, default=1000, help="first test images (1000)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    cli.check_range("images", args.images, 1, 10**9, "a data set holds")
    check_writable(args.out)
    models = {run.name: load(run) for run in args.runs}
    images = data.load(args.dataset).test[: args.images]
    record = {
        "dataset": Path(args.dataset).name,
        "test_images": len(images),
        "runs": {name: where_the_bits_go(model, images) for name, model in models.items()},
        "versions": versions(),
        "hardware": hardware(torch.device("cpu"), 1),
    }
    write_json(args.out, record)
    print(args.out)


if __name__ == "__main__":
    cli.run(lambda _: main())
