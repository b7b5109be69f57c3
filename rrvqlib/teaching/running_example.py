"""One problem and one budget for the small models of the book: the same patches, steps and score.

Chapters 1 to 4 and 7 each add a model, and its line to a scoreboard. `tools/scoreboard.py` trains
all of them with three seeds and stores what `scoreboard` draws.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rrvqlib.models.base import VAE
from rrvqlib.objectives.elbo import bits_per_dim, training_loss
from rrvqlib.settings.flat import changed
from rrvqlib.settings.model import ModelSettings
from rrvqlib.teaching.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS, BATCH, RATE = 300, 16, 0.02  # 4,800 patches of 16x16 pixels seen
THREAD_IMAGE = 60  # an eye: the patch of the validation images that each chapter reconstructs
SMALL = changed(
    ModelSettings(),
    model="one-layer",
    image_size=16,
    pyramid=(8,),
    embedding_dim=8,
    channels=24,
    likelihood="logistic-edge",
)
CODES = {"codebook_size": (64,)}
# What the chapters train, in their order.
EXAMPLES = {
    "Gaussian VAE": changed(SMALL, latent="gaussian"),
    "VQ-VAE": changed(
        SMALL, latent="nearest", **CODES, codebook_decay=0.9, dead_code_threshold=0.5
    ),
    "relaxed VQ": changed(SMALL, covariance="fixed", **CODES),
    "learnt variances": changed(SMALL, **CODES),
    "three layers": changed(
        SMALL, model="hierarchy", pyramid=(8, 4, 2), decoder_input="concat", **CODES
    ),
    "three layers of Gaussians": changed(
        SMALL, model="hierarchy", pyramid=(8, 4, 2), decoder_input="concat", latent="gaussian"
    ),
}


def train(model: VAE, images: Tensor, steps: int = STEPS) -> Tensor:
    """Train a small model: AdaMax, a rate that falls to nothing, codebooks five times as fast.

    Args:
        model: as built.
        images: uint8 (N, 3, S, S), of which each step draws `BATCH`.
        steps: how many.

    Returns:
        What each step saw, in bits per dim (steps, 2). First the pixels given the codes, then
        the KL.
    """
    model.initialise(images[:64])
    codebooks = {id(parameter) for parameter in model.fast_parameters()}
    fast = [p for p in model.parameters() if id(p) in codebooks]
    slow = [p for p in model.parameters() if id(p) not in codebooks]
    optimizer = torch.optim.Adamax([{"params": slow}, {"params": fast, "lr": 5 * RATE}], lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    seen = []
    for step in range(steps):
        batch = images[torch.randint(len(images), (BATCH,))]
        terms = model(batch, torch.tensor(0.5 ** (step / steps)))  # the temperature, of codes
        loss = training_loss(terms) / model.settings.dims
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen.append([terms.log_likelihood.mean().item(), -terms.kl.sum(1).mean().item()])
    model.eval()
    return bits_per_dim(torch.tensor(seen), model.settings.dims)


def scoreboard(file: Path, until: str) -> Figure:
    """Draw the stored scores of the models up to one, each seed a point, and print their means.

    Args:
        file: what `tools/scoreboard.py` wrote.
        until: the last name to show.
    """
    import matplotlib.pyplot as plt

    scores: dict[str, list[float]] = json.loads(file.read_text())["bits_per_dim"]
    names = list(scores)[: list(scores).index(until) + 1]
    figure, axis = plt.subplots(figsize=(6.4, 0.36 * len(names) + 0.9))
    for row, name in enumerate(names):
        mean = sum(scores[name]) / len(scores[name])
        colour = PALETTE[1] if name == until else PALETTE[0]
        axis.plot(scores[name], [row] * len(scores[name]), "o", color=colour, alpha=0.7)
        print(f"{name:<26}{mean:.2f} bits/dim")
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel="bits per dim, unseen patches")
    axis.invert_yaxis()
    return figure
