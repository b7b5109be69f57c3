"""Models of one-coloured images, and how much of a picture one of their latents paints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.swatches import SWATCHES
from rrvqlib.likelihoods.base import reals_to_pixels
from rrvqlib.models.base import VAE
from rrvqlib.models.one_layer import OneLayerVAE
from rrvqlib.objectives.elbo import training_loss
from rrvqlib.settings.flat import changed
from rrvqlib.settings.model import ModelSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = torch.tensor(list(SWATCHES.values()), dtype=torch.uint8)  # (9, 3)
LATENTS = {
    "codes": {"codebook_size": (16,), "covariance": "fixed"},
    "Gaussians": {"latent": "gaussian"},
}
NETWORKS = {
    "spatial": {"network": "conv", "channels": 16, "blocks": 2},
    "MLP": {"network": "mlp", "channels": 128, "blocks": 2},
}
BATCH, RATE = 18, 0.01


def settings(latents: str, network: str, count: int) -> ModelSettings:
    """A one-layer model of 32x32 images.

    Args:
        latents: "codes" or "Gaussians", of 16 numbers each.
        network: "spatial" or "MLP".
        count: latent variables, a square. An MLP does not care that they are on a grid.
    """
    parts = LATENTS[latents] | NETWORKS[network] | {"pyramid": (round(count**0.5),)}
    return changed(ModelSettings(), model="one-layer", embedding_dim=16, **parts)


def train(model: VAE, images: Tensor, steps: int) -> None:
    """Train with AdaMax at one rate, which falls to nothing in a straight line.

    Args:
        model: as built.
        images: uint8 (N, 3, S, S), taken in their order, again and again.
        steps: how many, of `BATCH` images.
    """
    model.initialise(images[:BATCH])
    optimizer = torch.optim.Adamax(model.parameters(), lr=RATE)
    for step in range(steps):
        start = step * BATCH % (len(images) // BATCH * BATCH)
        temperature = torch.tensor(0.5 ** (step / steps))  # from 1 to 1/2, of codes
        terms = model(images[start : start + BATCH], temperature)
        loss = training_loss(terms) / model.settings.dims
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
    model.eval()


def all_nine() -> Tensor:
    """The nine swatches, uint8 (9, 3, 32, 32)."""
    return COLOURS[:, :, None, None].expand(-1, -1, 32, 32).contiguous()


def nearest_colour(images: Tensor) -> Tensor:
    """Which of the nine is nearest to the mean colour of each of the images (N, 3, H, W): (N,)."""
    return torch.cdist(images.double().mean((2, 3)), COLOURS.double()).argmin(1)


def reconstruct_nine(model: VAE) -> tuple[Tensor, int]:
    """The nine swatches through a model.

    Returns:
        uint8 (9, 3, 32, 32), and how many of them are nearest to the colour that they should have.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        rebuilt = reals_to_pixels(model.reconstruct(all_nine()))
    return rebuilt, int((nearest_colour(rebuilt) == torch.arange(9)).sum())


def changes(model: OneLayerVAE, y: int, x: int, draws: int) -> Tensor:
    """What becomes different in samples if one latent is drawn anew.

    Args:
        model: of one layer.
        y, x: place of the latent.
        draws: samples.

    Returns:
        Differences of the pictures (draws, 3, S, S), where an image goes from -1/2 to 1/2.
    """
    with torch.no_grad():
        before, fresh = (model.latent.sample(model.prior(draws)) for _ in range(2))
        after = before.clone()
        after[:, :, y, x] = fresh[:, :, y, x]
        both = model.likelihood.mean(model.decode([torch.cat([before, after])]))
        before, after = both.clamp(-0.5, 0.5).chunk(2)
    return after - before


def footprint(model: OneLayerVAE, draws: int = 4) -> float:
    """The share of a picture that a latent paints, on average.

    With D the change of the picture as a latent is drawn anew, it is the mean square of D's
    average over the pixels, over the mean square of D: a where D is the same on a share a of the
    pixels and nothing on the others. Both means are over latents, draws and channels.

    Args:
        model: of one layer.
        draws: for each latent.
    """
    side = model.settings.pyramid[0]
    together, alone = 0.0, 0.0
    for place in range(side**2):
        change = changes(model, place // side, place % side, draws).double()
        together += change.mean((2, 3)).square().mean().item()
        alone += change.square().mean().item()
    return together / alone


def blocks(side: int, n: int, *, discrete: bool = True) -> Tensor:
    """Images (n, 3, 16, 16) of side x side blocks, each drawn by itself.

    Args:
        side: blocks along a side, 1, 2, 4, 8 or 16.
        n: images.
        discrete: one of the nine colours, uint8; or else normal numbers.
    """
    generator = torch.Generator().manual_seed(side)
    if discrete:
        codes = torch.randint(9, (n, side, side), generator=generator)
        painted = COLOURS[codes].permute(0, 3, 1, 2)
    else:
        painted = torch.randn(n, 3, side, side, generator=generator)
    return painted.repeat_interleave(16 // side, 2).repeat_interleave(16 // side, 3)


def tiles(path: Path, columns: int = 8, pitch: int = 34) -> Tensor:
    """The pictures of a stored sheet, row by row: uint8 (N, 3, pitch - 2, pitch - 2)."""
    from PIL import Image

    sheet = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    size, width = pitch - 2, columns * pitch
    rows = [
        (y, x) for y in range(0, sheet.size(1) - size + 1, pitch) for x in range(0, width, pitch)
    ]
    return torch.stack([sheet[:, y : y + size, x : x + size] for y, x in rows])


def draw_rows(rows: Mapping[str, Tensor], size: float = 0.62) -> Figure:
    """Rows of framed images, each with its name on the left.

    The grey frame keeps a white image apart from white paper.

    Args:
        rows: uint8 (N, 3, H, W) for each name; N may differ.
        size: inches of an image's side.
    """
    import matplotlib.pyplot as plt

    columns = max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.5 + size * columns, size * len(rows)), squeeze=False
    )
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set(visible=True, color="#8c8c8c", linewidth=0.8)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image.permute(1, 2, 0).numpy())
        for axis in line[len(images) :]:
            axis.set_visible(False)
    return figure
