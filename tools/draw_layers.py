"""Draw photographs whose upper layers are kept and whose lower layers are drawn anew, many times.

python tools/draw_layers.py book/_static/resampled-layers.jpg

Chapter 7 shows one row of the sheet at a time. A row has a picture for 0, 1, ... L layers kept and
the photograph; the rows of one photograph stand together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from rrvqlib import cli, data, load
from rrvqlib.files import check_writable
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.teaching.figures import mosaic
from rrvqlib.teaching.hierarchies import resampled

PHOTOGRAPHS = (3, 120, 410)  # of the test images
DRAWS = 12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the JPEG file to write")
    out = parser.parse_args().out
    check_writable(out)
    model = load("cifar10-cpu")
    assert isinstance(model, HierarchicalVAE)
    images = data.load("photos", image_size=32).test[list(PHOTOGRAPHS)]
    torch.manual_seed(0)
    fans = torch.stack(resampled(model, images, DRAWS), dim=2)  # (draws, B, L + 1, 3, S, S)
    rows = torch.cat([fans, images[None, :, None].expand(DRAWS, -1, -1, -1, -1, -1)], dim=2)
    tiles = rows.transpose(0, 1).flatten(0, 2)
    Image.fromarray(mosaic(tiles, columns=rows.shape[2]).numpy()).save(out, quality=90)


if __name__ == "__main__":
    cli.run(lambda _: main())
