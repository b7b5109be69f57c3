"""Runs of a second, on made images, for the tests of training and of the command lines."""

import numpy as np

from rrvqlib import data
from rrvqlib.runs.checkpoint import CHECKPOINT
from rrvqlib.settings.configs import RunConfig
from rrvqlib.optimisation.trainer import Trainer

TINY = RunConfig(
    image_size=8,
    pyramid=(4, 2),
    codes=(4,),
    code_size=3,
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
VQVAE = {"model": "vqvae", "pyramid": (4,)}
SMALL_FILES = ("--image_size", "8", "--pyramid", "4,2", "--codes", "4", "--code_size", "3",
               "--channels", "4", "--steps", "12", "--batch_size", "8", "--eval_every", "4",
               "--save_every", "3", "--eval_images", "10", "--iw_k", "2", "--iw_images", "4",
               "--lr_warmup", "2", "--device", "cpu")  # fmt: skip


def write_images(path, side=8, train=40, test=12):
    """A data file of smooth random images."""
    rng = np.random.default_rng(0)

    def images(n):
        coarse = rng.integers(0, 256, (n, side // 4, side // 4, 3), dtype=np.uint8)
        return coarse.repeat(4, 1).repeat(4, 2)

    np.savez(path, train_images=images(train), test_images=images(test))
    return f"npz:{path}"


def trainer(config, out):
    out.mkdir(exist_ok=True)
    return Trainer(config, data.load(config.dataset, image_size=config.image_size), out, "tiny")


def start_or_resume(config, out):
    run = trainer(config, out)
    if (out / CHECKPOINT).exists():
        run.resume()
    run.run(show_progress=False)
