"""Pictures of any size through a model: cut into tiles, written as codes, put together again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrvqlib.coding.tiles import Entry, cut, join
from rrvqlib.data.reader import read_picture
from rrvqlib.errors import UserError
from rrvqlib.likelihoods.base import reals_to_pixels
from rrvqlib.models.base import VAE
from rrvqlib.models.checks import check_input
from rrvqlib.numerics import check_finite, true_float32
from rrvqlib.objectives.elbo import bits_per_dim
from rrvqlib.runs.pictures import STRIP, check_grid, grid, under_name
from rrvqlib.runs.scoring import batches, device_of, evaluating
from rrvqlib.words import number_of

TILES = 64  # at a time
PANELS = 7  # numbers of layers that are shown, at most
ROW = 1400  # pixels that a row of the poster fills, if two pictures fit into it


@dataclass(frozen=True)
class Rebuilt:
    """A picture, and what is left of it with the codes of its topmost layers alone.

    Attributes:
        original: uint8 (c, H, W).
        kept: numbers of layers, growing; the last is all of them.
        pictures: uint8 (c, H, W), one for each number; the layers below take the prior's mode.
        tiles: how many it was cut into.
        bits_per_dim: of the picture without loss, the one-sample ELBO of its tiles.
        code_bits_per_dim: KL of the layers kept, one for each number.
    """

    original: Tensor
    kept: list[int]
    pictures: list[Tensor]
    tiles: int
    bits_per_dim: float
    code_bits_per_dim: list[float]


def read_whole(path: Path, longest: int, channels: int = 3) -> tuple[Tensor, tuple[int, int]]:
    """A picture file -> uint8 (c, H, W), shrunk where it is longer than `longest` pixels.

    Args:
        path: of the file.
        longest: side; 0 takes any.
        channels: c; 1 keeps the luminance.

    Returns:
        The pixels, and width and height as they were in the file.

    Raises:
        UserError: the file cannot be read.
    """
    from PIL import Image

    image = Image.fromarray(read_picture(path).pixels)
    width, height = image.size
    if longest and max(width, height) > longest:
        image.thumbnail((longest, longest), Image.Resampling.BOX)
    pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1), (width, height)


def poster(rebuilt: Rebuilt, least: int = 160) -> Tensor:
    """The original and what each number of layers rebuilds, each under its name: uint8 (3, H, W).

    Args:
        rebuilt: of a picture.
        least: pixels that each is wide, or it is enlarged by a whole number.

    Raises:
        UserError: all of them together are too large for one picture.
    """
    layers = rebuilt.kept[-1]
    names = ["original", *(f"{number} of {number_of(layers, 'layer')}" for number in rebuilt.kept)]
    pictures = [rebuilt.original, *rebuilt.pictures]
    times = -(-least // pictures[0].shape[2])
    height, width = (times * side for side in pictures[0].shape[1:])
    columns = min(len(pictures), max(2, ROW // width))
    check_grid(len(pictures), columns, (height + STRIP, width))
    panels = [
        under_name(one.repeat_interleave(times, 1).repeat_interleave(times, 2), name)
        for one, name in zip(pictures, names, strict=True)
    ]
    return grid(torch.stack(panels), columns, gap=6)


def below_each_other(pictures: list[Tensor], gap: int = 12) -> Tensor:
    """uint8 pictures (3, H, W) of any sizes -> one, white where some are narrower.

    Raises:
        UserError: it would have more than `MAX_PIXELS`.
    """
    width = max(picture.shape[2] for picture in pictures)
    height = sum(picture.shape[1] + gap for picture in pictures) - gap
    check_grid(1, 1, (height, width), gap=0)
    whole, top = torch.full((3, height, width), 255).byte(), 0
    for picture in pictures:
        whole[:, top : top + picture.shape[1], : picture.shape[2]] = picture
        top += picture.shape[1] + gap
    return whole


def kept_layers(layers: int) -> list[int]:
    """Which numbers of layers are shown: all of a few, of many each twice the one before."""
    if layers <= PANELS:
        return list(range(1, layers + 1))
    return [*(2**n for n in range(layers.bit_length()) if 2**n < layers), layers]


@true_float32()
@torch.no_grad()
def rebuild(model: VAE, picture: Tensor, seed: int = 0, label: str = "") -> Rebuilt:
    """Write a picture as codes drawn from the posterior, and rebuild it from the topmost layers.

    Args:
        model: of any kind and latents.
        picture: uint8 (c, H, W) of any size.
        seed: of the draws.
        label: of a progress bar; empty for none.

    Raises:
        UserError: as the model itself; it has classes; or it gives NaN.
    """
    if model.settings.classes:
        raise UserError(
            "a tile of a picture has no class, and the model wants one; take a model without"
        )
    side, dims = model.settings.image_size, model.settings.dims
    tiles, entry = cut(picture, side), Entry("", picture.shape[2], picture.shape[1])
    layers = len(model.latents)
    kept = kept_layers(layers)
    rebuilt: list[list[Tensor]] = [[] for _ in kept]
    elbos, kls = [], []
    check_input(model, tiles[:1], None)
    with evaluating(model, seed):
        for batch, _ in batches(tiles, TILES, device_of(model), label):
            inference = model.infer(batch, None)
            log_likelihood = model.likelihood.log_prob(batch, inference.parameters)
            kl = torch.stack([draw.kl.flatten(1).sum(1) for draw in inference.draws], dim=1)
            elbos.append(log_likelihood - kl.sum(1))
            kls.append(kl)
            vectors = [draw.vectors for draw in inference.draws]
            for parts, number in zip(rebuilt, kept, strict=True):
                parameters = inference.parameters
                if number < layers:
                    parameters = model.decode_prior(len(batch), 0.0, vectors[layers - number :])
                parts.append(reals_to_pixels(model.likelihood.mean(parameters)).cpu())
    elbo, kl = torch.cat(elbos), torch.cat(kls)
    check_finite("scores", elbo)
    from_the_top = kl.mean(0).flip(0).cumsum(0)
    return Rebuilt(
        picture,
        kept,
        [next(join(list(torch.cat(parts)), [entry])) for parts in rebuilt],
        len(tiles),
        bits_per_dim(elbo, dims).mean().item(),
        [bits_per_dim(-from_the_top[number - 1], dims).item() for number in kept],
    )
