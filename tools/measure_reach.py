"""Write what a code at the middle of each layer sees and moves: book/_static/reach-data.js.

python tools/measure_reach.py

The model is the stored one of 32 layers; the images are the eight first of its own sheet of
reconstructions. What a page draws is the root of a map, scaled to its largest value, in 256 steps.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

import torch
from torch import Tensor

from rrvqlib import load
from rrvqlib.models import HierarchicalVAE
from rrvqlib.teaching.depth import area, moved_by_code, seen_by_place
from rrvqlib.teaching.rivals import stored_samples

BOOK = Path(__file__).resolve().parent.parent / "book"
RUN, OUT = "cifar10-l32-c64", BOOK / "_static" / "reach-data.js"


def images_of_run() -> Tensor:
    """Eight test images, uint8 (8, 3, 32, 32)."""
    return stored_samples(BOOK / "results" / RUN / "reconstructions.png", 16)[1::2]


def in_bytes(effect: Tensor) -> str:
    """A map (S, S) as a page reads it."""
    levels = (255 * (effect / effect.max()).sqrt()).round().to(torch.uint8)
    return base64.b64encode(levels.numpy().tobytes()).decode()


def reach_of(model: HierarchicalVAE, layer: int, images: Tensor) -> dict[str, object]:
    """One layer: its grid, both maps of its middle place, and how many pixels hold 90 % of each."""
    torch.manual_seed(layer)
    side = model.settings.pyramid[layer - 1]
    place = (side // 2, side // 2)
    sees, moves = (f(model, images, layer, place) for f in (seen_by_place, moved_by_code))
    found: dict[str, object] = {"layer": layer, "side": side}
    for name, effect in (("sees", sees), ("moves", moves)):
        found[name] = {"map": in_bytes(effect), "pixels": area(effect)}
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # --help, and nothing else
    model, images = load(RUN), images_of_run()
    assert isinstance(model, HierarchicalVAE)
    layers = [reach_of(model, layer, images) for layer in range(1, model.settings.layers + 1)]
    OUT.write_text(f"var rrvqReach = {json.dumps(layers)};\n")
    print(OUT.relative_to(BOOK.parent))


if __name__ == "__main__":
    main()
