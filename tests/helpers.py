"""What several test files need: runs of a second on made images, lively models."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from rrvqlib import data
from rrvqlib.files import LOCK
from rrvqlib.models import build
from rrvqlib.optimisation.trainer import Trainer
from rrvqlib.runs.checkpoint import CHECKPOINT
from rrvqlib.settings import ModelSettings, RunSettings, changed

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
# Of a codebook; "shared" is that of `latent="stochastic"`.
COVARIANCES = ("isotropic", "diagonal", "as_printed", "fixed", "shared")
PRIORS = ("embedding", "direct", "uniform")
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


def normal(*shape, seed=0):
    """Standard normal numbers, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def names(folder):
    """Of the files in a folder, but for the lock that writers leave behind."""
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def random_images(n, size, seed=0):
    """uint8 (n, 3, size, size), the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def lively(module, *, seed=0, by=0.5, but=()):
    """A module whose weights are all random, the learnt vector too, and far from a flat prior.

    Args:
        module: or settings of a model, which is built from the same seed.
        seed: of the weights.
        by: standard deviation of what is added to them.
        but: parameters whose names begin so stay as they are.
    """
    torch.manual_seed(seed)
    if isinstance(module, ModelSettings):
        module = build(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith(but):
                parameter.add_(by * torch.randn_like(parameter))
    return module.eval()


def note_draws(model, monkeypatch):
    """A list that grows with every draw of the model's: the latent, its posterior, its prior."""
    noted = []

    def noting(latent, draw):
        def noted_draw(posterior, prior, temperature):
            noted.append((latent, posterior, prior))
            return draw(posterior, prior, temperature)

        return noted_draw

    for latent in model.latents:
        monkeypatch.setattr(latent, "draw", noting(latent, latent.draw))
    return noted


def output_statistics(network, run):
    """Of every weight-normed layer: its outputs' mean and standard deviation per channel in `run`,
    and the standard deviation that initialisation aims at."""
    seen = {}

    def note(layer, _inputs, output):
        others = [d for d in range(output.ndim) if d != 1]
        seen[layer] = (output.mean(others), output.std(others, correction=0), layer.init_scale)

    hooks = [m.register_forward_hook(note) for m in network.modules() if hasattr(m, "init_scale")]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return {name: seen[m] for name, m in network.named_modules() if m in seen}


@contextmanager
def largest_file(size):
    """A disk on which files end at `size` bytes, as a full one does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
