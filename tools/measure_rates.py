"""What the book's small models pay for codes and for pixels, three seeds each, stored as JSON.

python tools/measure_rates.py book/results/rates.json
"""

from __future__ import annotations

import torch
from stored_record import file_to_write, store
from tqdm import tqdm

from rrvqlib import cli, data
from rrvqlib.models import build
from rrvqlib.teaching import rates, running_example

SEEDS = 3
# Names of running_example.EXAMPLES, and the weights of the KL while they train.
WEIGHTS = {"Gaussian VAE": (1.0,), "VQ-VAE": (1.0,), "relaxed VQ": (1.0, 0.3, 0.1, 0.0)}


def main() -> None:
    out = file_to_write(__doc__)
    patches = data.load("photos", image_size=16)
    found = {}
    for name, weight in tqdm([(name, w) for name, weights in WEIGHTS.items() for w in weights]):
        points = found.setdefault(name, {})[f"KL weight {weight}"] = []
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            model = build(running_example.EXAMPLES[name])
            rates.discount_kl(model, weight)
            running_example.train(model, patches.train)
            points.append(rates.rate_and_reconstruction(model, patches.valid))
    record = {
        "rate_and_reconstruction_bits_per_dim": found,
        "images": len(patches.valid),
        "seeds": SEEDS,
        "dataset": patches.name,
    }
    store(out, record)


if __name__ == "__main__":
    cli.run(lambda _: main())
