"""Compress test images with a stored model and with common formats; write the sizes as JSON.

python tools/measure_compression.py RUN --dataset npz:PATH --count 500 --out FILE

Formats code each image as a file of its own and all of them as one mosaic, whose header weighs
nothing. JPEG and WebP (lossy) are counted by payload: what follows their headers and tables. JPEGs
are written with colour at half resolution and at full.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from rrvqlib import cli, data
from rrvqlib.coding.codec import Codec
from rrvqlib.errors import UserError
from rrvqlib.files import check_writable, write_json
from rrvqlib.models.ready import load
from rrvqlib.runs.pictures import grid
from rrvqlib.runs.records import hardware, versions
from rrvqlib.runs.similarity import psnr, ssim
from rrvqlib.teaching.formats import JPEG, QUALITIES, WEBP, written

LOSSLESS = {
    "PNG": {"optimize": True},
    "WEBP": {"lossless": True, "quality": 100, "method": 6},
    "JXL": {"lossless": True, "effort": 9},
}
LOSSY = {"jpeg": JPEG, "webp": WEBP}
ELBO_DRAWS = 10


def quality(images: torch.Tensor, decoded: torch.Tensor) -> dict[str, float]:
    """PSNR in dB, and the mean SSIM."""
    return {"psnr": psnr(images, decoded), "ssim": ssim(images, decoded)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder with the model")
    parser.add_argument("--dataset", default="photos", help="as in rrvqlib.train")
    parser.add_argument("--count", type=int, default=500, help="of the first test images")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    check_writable(args.out)
    try:
        import pillow_jxl  # noqa: F401  registers JPEG XL
    except ImportError:
        raise UserError("JPEG XL is missing; run: pip install pillow-jxl-plugin") from None

    model = load(args.run)
    splits = data.load(args.dataset, "data", model.settings.image_size)
    images = splits.test[: args.count]
    codec, dims = Codec(model), images.numel()
    coded = codec.encode(images)
    assert torch.equal(torch.stack(codec.decode(coded.words, len(images))), images)
    torch.manual_seed(0)
    with torch.no_grad():
        nats = -sum(
            model(part, None).elbo.sum().item()
            for _ in range(ELBO_DRAWS)
            for part in images.split(100)
        )
    mosaic = grid(images, columns=math.ceil(math.sqrt(len(images))), gap=0)
    result = {
        "run": args.run.name,
        "dataset": splits.name,
        "images": len(images),
        "lossless": {
            "elbo_bits_per_dim": nats / math.log(2) / ELBO_DRAWS / dims,
            "net_bits_per_dim": coded.net_bits / dims,
            "initial_bits": coded.initial_bits,
            "files": {
                name: sum(len(written(x, name, **o)) for x in images) * 8 / dims
                for name, o in LOSSLESS.items()
            },
            "mosaic": {
                name: len(written(mosaic, name, **o)) * 8 / dims for name, o in LOSSLESS.items()
            },
        },
        "lossy": [],
        "jpeg": [],
        "webp": [],
        "versions": versions(),
        "hardware": hardware(torch.device("cpu"), 1),
    }
    for layers in range(1, len(codec.layers) + 1):
        coded, seen = codec.encode_codes(images, layers)
        grids = zip(model.settings.pyramid, codec.layers, strict=True)
        kept = [(side**2 * z.symbols, z.values) for side, (_, z) in grids][-layers:]
        fixed = sum(symbols * math.log2(values) for symbols, values in kept)
        result["lossy"].append(
            {
                "layers": layers,
                "fixed_bits": fixed,
                "bits": coded.net_bits / len(images),
                **quality(images, torch.stack(seen)),
            }
        )
    for name, coders in LOSSY.items():
        for coder in coders:
            for q in QUALITIES:
                coded = [coder(x, q) for x in images]
                found = quality(images, torch.stack([one.image for one in coded]))
                bits = float(np.mean([one.payload for one in coded]))
                result[name].append({"coder": coder.__name__, "quality": q, "bits": bits, **found})
    write_json(args.out, result)


if __name__ == "__main__":
    cli.run(lambda _: main())
