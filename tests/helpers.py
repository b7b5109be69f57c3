"""What several test files need: runs of a second on made images, lively models."""

import numpy as np
import torch

from rrvqlib import data
from rrvqlib.models import build
from rrvqlib.optimisation.trainer import Trainer
from rrvqlib.runs.checkpoint import CHECKPOINT
from rrvqlib.settings import RunSettings, changed

TINY = changed(
    RunSettings(),
    image_size=8,
    pyramid=(4, 2),
    codebook_size=4,
    embedding_dim=3,
    channels=4,
    steps=12,
    batch_size=8,
    eval_every=4,
    save_every=3,
    eval_images=10,
    iw_k=2,
    iw_images=4,
    lr_warmup=2,
    device="cpu",
)
VQVAE = {"model": "one-layer", "latent": "nearest", "pyramid": (4,)}
# The same as TINY, on the command line.
TINY_FLAGS = (
    "--image_size 8 --pyramid 4,2 --codebook_size 4 --embedding_dim 3 --channels 4 --steps 12"
    " --batch_size 8 --eval_every 4 --save_every 3 --eval_images 10 --iw_k 2 --iw_images 4"
    " --lr_warmup 2 --device cpu"
).split()


def write_images(path, side=8, train=40, test=12):
    """A data file of smooth random images."""
    rng = np.random.default_rng(0)

    def images(n):
        coarse = rng.integers(0, 256, (n, side // 4, side // 4, 3), dtype=np.uint8)
        return coarse.repeat(4, 1).repeat(4, 2)

    np.savez(path, train_images=images(train), test_images=images(test))
    return f"npz:{path}"


def trainer(settings, out):
    out.mkdir(exist_ok=True)
    images = data.load(settings.data.dataset, image_size=settings.model.image_size)
    return Trainer(settings, images, out, "tiny")


def start_or_resume(settings, out):
    run = trainer(settings, out)
    if (out / CHECKPOINT).exists():
        run.resume()
    run.run(show_progress=False)
