"""Compress test images with a stored model and with common formats; write the sizes as JSON.

python tools/measure_compression.py RUN --dataset npz:PATH --count 500 --out FILE

Formats code each image as a file of its own and all of them as one mosaic, whose header weighs
nothing. JPEG and WebP (lossy) are counted by payload: what follows their headers and tables.
"""

from __future__ import annotations

import argparse
import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rrvqlib import cli, data
from rrvqlib.coding.codec import Codec
from rrvqlib.errors import UserError
from rrvqlib.files import check_writable, write_json
from rrvqlib.models.ready import load
from rrvqlib.runs.pictures import grid
from rrvqlib.runs.records import hardware, versions
from rrvqlib.runs.similarity import psnr, ssim

LOSSLESS = {
    "PNG": {"optimize": True},
    "WEBP": {"lossless": True, "quality": 100, "method": 6},
    "JXL": {"lossless": True, "effort": 9},
}
JPEG_QUALITIES = (1, 5, 10, 20, 35, 50, 65, 80, 90, 95)
ELBO_DRAWS = 10


def picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def size(image: torch.Tensor, name: str, **options) -> int:
    """Bits of a file."""
    buffer = io.BytesIO()
    picture(image).save(buffer, name, **options)
    return 8 * buffer.tell()


def quality(images: torch.Tensor, decoded: torch.Tensor) -> dict[str, float]:
    """PSNR in dB, and the mean SSIM."""
    return {"psnr": psnr(images, decoded), "ssim": ssim(images, decoded)}


def jpeg(image: torch.Tensor, q: int) -> tuple[int, torch.Tensor]:
    """Bits after the header of the scan, and the decoded image."""
    buffer = io.BytesIO()
    picture(image).save(buffer, "JPEG", quality=q, subsampling="4:2:0", optimize=True)
    raw = buffer.getvalue()
    scan = raw.index(b"\xff\xda")
    payload = len(raw) - (scan + 2 + int.from_bytes(raw[scan + 2 : scan + 4], "big")) - 2
    return 8 * payload, torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def webp(image: torch.Tensor, q: int) -> tuple[int, torch.Tensor]:
    """Bits of the file without its 20 bytes of RIFF header, and the decoded image."""
    buffer = io.BytesIO()
    picture(image).save(buffer, "WEBP", quality=q, method=6)
    decoded = Image.open(buffer).convert("RGB")
    return 8 * (buffer.getbuffer().nbytes - 20), torch.from_numpy(np.array(decoded)).permute(
        2, 0, 1
    )


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
                name: sum(size(x, name, **o) for x in images) / dims for name, o in LOSSLESS.items()
            },
            "mosaic": {name: size(mosaic, name, **o) / dims for name, o in LOSSLESS.items()},
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
    for name, code in (("jpeg", jpeg), ("webp", webp)):
        for q in JPEG_QUALITIES:
            bits, decoded = zip(*(code(x, q) for x in images), strict=True)
            found = quality(images, torch.stack(decoded))
            result[name].append({"quality": q, "bits": float(np.mean(bits)), **found})
    write_json(args.out, result)


if __name__ == "__main__":
    cli.run(lambda _: main())
