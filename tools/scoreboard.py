"""Train the book's small models with three seeds and store their scores.

python tools/scoreboard.py book/results/scoreboard.json
"""

from __future__ import annotations

import time

import torch
from stored_record import file_to_write, store
from torch import Tensor
from tqdm import tqdm

from rrvqlib import cli, data
from rrvqlib.models import build
from rrvqlib.runs.scoring import score
from rrvqlib.teaching import running_example
from rrvqlib.teaching.yardsticks import left_differences, log2_histogram

SEEDS = 3


def left_neighbour(train: Tensor, images: Tensor) -> float:
    """Bits per dim of sub-pixels by the histogram of differences to the left one (chapter 1)."""
    table = log2_histogram(left_differences(train))
    bits = -table[left_differences(images).long()].sum().item()
    return (bits + 8 * images[..., 0].numel()) / images.numel()


def main() -> None:
    out = file_to_write(__doc__)
    patches = data.load("photos", image_size=16)
    scores = {"left neighbour": [left_neighbour(patches.train, patches.valid)]}
    seconds = {}
    for name, settings in tqdm(running_example.EXAMPLES.items()):
        begin, scores[name] = time.perf_counter(), []
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            model = build(settings)
            running_example.train(model, patches.train)
            torch.manual_seed(0)
            scores[name].append(score(model, patches.valid)["bits_per_dim"])
        seconds[name] = (time.perf_counter() - begin) / SEEDS
    record = {
        "bits_per_dim": scores,
        "seconds": seconds,
        "images": len(patches.valid),
        "seeds": SEEDS,
        "dataset": patches.name,
    }
    store(out, record)


if __name__ == "__main__":
    cli.run(lambda _: main())
