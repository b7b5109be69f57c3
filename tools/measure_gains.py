"""By how many dB the codes of stored models beat JPEG and WebP, picture by picture; write JSON.

python tools/measure_gains.py --cifar10 npz:data/cifar10.npz \
    --celeba npz:data/celeba64.npz --celeba_model runs/celeba-l5-cpu --out FILE

Every picture's codes are priced by the prior. The rival's quality at a payload of as many bits is
read off its own curve for that picture; a JPEG may have its colour at half or at full resolution,
whichever is better. What is kept is the mean difference over pictures, its
standard error, and how many pictures the codes win. For the five-layer pyramid of Appendix F the
codes are also written to disk at fixed length, a file for each picture, read back and compared;
there the rival gets the bits that were counted in those files.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from stored_record import store
from torch import Tensor

from rrvqlib import cli, data
from rrvqlib.coding.codec import Codec
from rrvqlib.errors import UserError
from rrvqlib.files import check_writable
from rrvqlib.models.ready import load
from rrvqlib.teaching import fixed_length
from rrvqlib.teaching.formats import JPEG, WEBP, gains

RIVALS = {"jpeg": JPEG, "webp": WEBP}


def against_rivals(codec: Codec, images: Tensor, budget: int | None = None) -> dict[str, Any]:
    """Of each rival: mean lead of the codes, its standard error and spread, pictures won."""
    result = {}
    for rival, coders in RIVALS.items():
        found = torch.tensor(gains(codec, images, coders, budget), dtype=torch.float64)
        result[rival] = {
            "mean_db": found.mean().item(),
            "se_db": (found.std() / len(found) ** 0.5).item(),
            "sd_db": found.std().item(),
            "won": int((found > 0).sum()),
        }
    return result


def fixed_files(codec: Codec, images: Tensor) -> dict[str, Any]:
    """Write and read a file of fixed length for each image; what was counted in them.

    Raises:
        UserError: a picture came back another.
    """
    lengths, counted = set(), set()
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images.split(1)):
            path = Path(folder, f"{number}.bin")
            path.write_bytes(fixed_length.to_file(codec.model, image))
            file = path.read_bytes()
            lengths.add(path.stat().st_size)
            counted.add(fixed_length.bits_in(file))
            _, (seen,) = codec.encode_codes(image, len(codec.layers))
            if not torch.equal(fixed_length.from_file(codec.model, file)[0], seen):
                raise UserError(f"picture {number} came back from its file as another")
    (size,), (bits,) = lengths, counted  # all alike, whatever the picture
    return {"files": len(images), "bytes": size, "bits": bits}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", required=True, help="a data set, as in rrvqlib.train")
    parser.add_argument("--celeba", required=True, help="the same, of faces of 64x64")
    parser.add_argument("--celeba_model", type=Path, required=True, help="folder of a trained run")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    check_writable(args.out)
    result = {}
    for name, dataset, model, side, count in (  # as many as measure_compression.py took
        ("cifar10", args.cifar10, "cifar10-cpu", 32, 500),
        ("photos", "photos", "cifar10-cpu", 32, 500),
        ("photos64", "photos", "photos64-l5-cpu", 64, 150),
        ("celeba", args.celeba, args.celeba_model, 64, 300),
    ):
        images = data.load(dataset, "data", side).test[:count]
        codec = Codec(load(model))
        result[name] = {"model": Path(model).name, "images": len(images)}
        result[name] |= against_rivals(codec, images)
        if side == 64:
            fixed = fixed_files(codec, images)
            result[name]["fixed"] = fixed | against_rivals(codec, images, fixed["bits"])
    store(args.out, result)


if __name__ == "__main__":
    cli.run(lambda _: main())
