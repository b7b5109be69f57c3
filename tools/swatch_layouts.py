"""Train the eight models of chapter 6 on swatches with three seeds, measure them, store samples.

python tools/swatch_layouts.py book/results/swatch-layouts.json

The samples go beside it, into a PNG of the same name: a row of eight for each model, first seed.
"""

from __future__ import annotations

import itertools
import math

import torch
from stored_record import file_to_write, store
from tqdm import tqdm

from rrvqlib import cli, data
from rrvqlib.models.one_layer import OneLayerVAE
from rrvqlib.runs.pictures import grid, sample_images, write_png
from rrvqlib.teaching import swatches, within_image_share

SEEDS, STEPS, SAMPLES = 3, 400, 256


def measure(model: OneLayerVAE) -> dict[str, float]:
    """Share of the samples, footprint, colours right, error of reconstructions, KL."""
    rebuilt, right = swatches.reconstruct_nine(model)
    nine = swatches.all_nine()
    with torch.no_grad():
        kl = model(nine, None).kl.sum(1).mean().item() / math.log(2)
    return {
        "share": within_image_share(sample_images(model, SAMPLES)),
        "footprint": swatches.footprint(model),
        "colours_right": right,
        "error_levels": (rebuilt.double() - nine).abs().mean().item(),
        "kl_bits": kl,
    }


def main() -> None:
    out = file_to_write(__doc__)
    images = data.load("swatches").train
    design = list(itertools.product((256, 16), swatches.NETWORKS, swatches.LATENTS))
    found: dict[str, list[dict[str, float]]] = {}
    pictures = []
    for seed in tqdm(range(SEEDS)):
        for count, network, latents in design:
            torch.manual_seed(seed)
            model = OneLayerVAE(swatches.settings(latents, network, count))
            swatches.train(model, images, STEPS)
            name = f"{latents}, {network}, {count}"
            found.setdefault(name, []).append(measure(model))
            if seed == 0:
                pictures.append(sample_images(model, 8))
    record = {
        "models": found,
        "steps": STEPS,
        "samples": SAMPLES,
        "seeds": SEEDS,
    }
    store(out, record)
    write_png(out.with_suffix(".png"), grid(torch.cat(pictures), columns=8))


if __name__ == "__main__":
    cli.run(lambda _: main())
