"""What layers buy: stored runs as they went, a model's layers one by one, what a code reaches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from rrvqlib.latents.base import DiscreteLatent
from rrvqlib.likelihoods.base import pixels_to_reals, reals_to_pixels
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.runs.similarity import psnr
from rrvqlib.teaching.hierarchies import resampled
from rrvqlib.teaching.records import results_of


class Parts(NamedTuple):
    """A score and the two parts that it is the sum of, in bits/dim.

    Attributes:
        score: the negative ELBO.
        kl: what the latent variables cost.
        pixels: what the pixels cost once the latent variables are known.
    """

    score: float
    kl: float
    pixels: float


class Depth(NamedTuple):
    """A run of the sweep over pyramids.

    Attributes:
        name: as `tools/sweep.py` calls it.
        layers: all of them.
        finest: how many of them lie at 16 x 16.
        score: on validation images, bits/dim.
        steps: of training, 32 images each.
        seconds: of the processor that it took, where they were recorded.
    """

    name: str
    layers: int
    finest: int
    score: float
    steps: int
    seconds: float | None


def parts_of(folder: Path) -> Parts:
    """The score of a run on test images, taken apart."""
    found = results_of(folder)
    score, kl = found["test_bits_per_dim"], sum(found["kl_bits_per_dim"])
    return Parts(score, kl, score - kl)


def depths_of(files: Sequence[Path], names: Sequence[str]) -> list[Depth]:
    """Runs of the sweep that differ in their pyramids.

    Args:
        files: JSON lines as `tools/sweep.py` writes them.
        names: of the runs that are wanted; the order of the answer. "base" has six layers.
    """
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    lines = {line["variant"]: line for line in map(json.loads, text.splitlines())}
    found = []
    for name in names:
        if name in lines:
            line = lines[name]
            pyramid = line["changes"].get("pyramid", [16, 16, 16, 16, 8, 4])
            score, steps = line["valid_bits_per_dim"], line["step"]
            seconds = line.get("processor_seconds")
            found.append(Depth(name, len(pyramid), pyramid.count(16), score, steps, seconds))
    return found


def bits_per_code(
    kl: Sequence[float], pyramid: Sequence[int], sub_pixels: int = 3072
) -> list[float]:
    """What one code of each layer says, in bits.

    Args:
        kl: of each layer, bits/dim.
        pyramid: the side of each layer's grid.
        sub_pixels: of an image, which bits/dim are shared out over.
    """
    return [bits * sub_pixels / side**2 for bits, side in zip(kl, pyramid, strict=True)]


def agreement(images: Tensor, distances: Sequence[int]) -> list[float]:
    """Correlation of the brightness of two pixels, at each distance along rows and columns.

    Brightness is measured from its mean over all pixels of all images, so an image that is
    brighter than others agrees with itself everywhere.

    Args:
        images: uint8 (N, 3, S, S).
        distances: in pixels, each less than S.
    """
    light = images.double().mean(1)
    light = light - light.mean()
    products = [
        ((light[:, :, d:] * light[:, :, :-d]).mean() + (light[:, d:] * light[:, :-d]).mean()) / 2
        for d in distances
    ]
    return [(product / light.square().mean()).item() for product in products]


def kept_layer_by_layer(
    model: HierarchicalVAE, images: Tensor, draws: int = 1
) -> tuple[Tensor, list[float]]:
    """Images with the codes of ever more layers, from the top, and how close they come.

    Layers that are not kept are drawn from the prior given those above.

    Args:
        model: a hierarchy of L layers.
        images: uint8 (B, 3, S, S).
        draws: of the layers that are not kept, for the ratios.

    Returns:
        The first draw, uint8 (L + 1, B, 3, S, S), and L + 1 ratios in decibels over all draws.
    """
    fan = torch.stack(resampled(model, images, draws))  # (L + 1, draws, B, 3, S, S)
    return fan[:, 0], [psnr(drawn.flatten(0, 1), images.repeat(draws, 1, 1, 1)) for drawn in fan]


@torch.no_grad()
def moved_by_code(
    model: HierarchicalVAE, images: Tensor, layer: int, place: tuple[int, int], draws: int = 8
) -> Tensor:
    """How far each pixel moves, in levels, when one code is swapped for others.

    All other codes stay those that the posterior gave the image.

    Args:
        model: a hierarchy of codes.
        images: uint8 (B, 3, S, S).
        layer: number of the layer, l = 1 nearest the pixels.
        place: row and column of the code.
        draws: of another code, each of the K equally likely, for every image.

    Returns:
        (S, S), the mean over images, colours and draws.
    """
    vectors = [draw.vectors for draw in model.infer(images, None).draws]
    latent = cast(DiscreteLatent, model.layers[layer - 1].latent)

    def decoded(these: list[Tensor]) -> Tensor:
        return reals_to_pixels(model.likelihood.mean(model.decode(these))).float()

    before, (row, column) = decoded(vectors), place
    moved = torch.zeros(before.shape[-2:])
    for _ in range(draws):
        others = list(vectors)
        codes = torch.randint(latent.values, (len(images), 1, 1, 1))
        others[layer - 1] = vectors[layer - 1].clone()
        others[layer - 1][:, :, row, column] = latent.lookup(codes)[:, :, 0, 0]
        moved += (decoded(others) - before).abs().mean((0, 1)) / draws
    return moved


def seen_by_place(
    model: HierarchicalVAE, images: Tensor, layer: int, place: tuple[int, int], probes: int = 8
) -> Tensor:
    """How much each pixel can change what the encoder hands to one place of a layer.

    Args:
        model: a hierarchy.
        images: uint8 (B, 3, S, S).
        layer: number of the layer, l = 1 nearest the pixels.
        place: row and column on its grid.
        probes: random directions of the features that are followed back to the pixels.

    Returns:
        (S, S), root mean square of the slopes, without a unit that matters.
    """
    reals = pixels_to_reals(images).requires_grad_()
    with torch.enable_grad():
        features = model.encoder(reals)[layer - 1][:, :, place[0], place[1]]  # (B, C)
        squares = torch.zeros(images.shape[-2:])
        for _ in range(probes):
            probe = (features * torch.randn_like(features)).sum()
            (slope,) = torch.autograd.grad(probe, reals, retain_graph=True)
            squares += slope.square().sum(1).mean(0) / probes
    return squares.sqrt()


def area(effect: Tensor, share: float = 0.9) -> int:
    """The fewest pixels of a map (S, S) that hold this share of its sum."""
    largest = effect.flatten().sort(descending=True).values.cumsum(0)
    return int((largest < share * largest[-1]).sum()) + 1
