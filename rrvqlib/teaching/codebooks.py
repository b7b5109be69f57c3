"""A small VQ-VAE looked into: which codes it uses, what they paint, what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from rrvqlib.latents.base import channels_last
from rrvqlib.latents.nearest import NearestLatent
from rrvqlib.likelihoods.base import pixels_to_reals
from rrvqlib.models.one_layer import OneLayerVAE
from rrvqlib.objectives.elbo import ElboTerms, bits_per_dim
from rrvqlib.teaching.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def perplexity(codes: Tensor, K: int) -> float:
    """exp of the entropy of the codes' frequencies: K if all are used alike, 1 if only one is.

    Args:
        codes: int64 of any shape, from 0 to K - 1.
        K: size of the codebook.
    """
    frequencies = codes.flatten().bincount(minlength=K) / codes.numel()
    return torch.special.entr(frequencies).sum().exp().item()


def watch_usage(model: OneLayerVAE, revive_at: int | None = None) -> list[float]:
    """Have a VQ-VAE write down the perplexity of each training batch's codes.

    Args:
        model: its latents are `NearestLatent`.
        revive_at: the step from which dead codes are restarted; None changes nothing.

    Returns:
        A list, empty now, that grows by one number a step.
    """
    latent, curve = cast(NearestLatent, model.latent), []

    def watch(model: torch.nn.Module, _inputs: tuple, terms: ElboTerms) -> None:
        if model.training:
            curve.append(perplexity(cast(Tensor, terms.codes[0]), latent.values))
            if len(curve) == revive_at:
                latent.average.dead_code_threshold = 0.5

    model.register_forward_hook(watch)
    return curve


def ring_and_hub() -> tuple[Tensor, Tensor]:
    """Points in the plane to be quantised, (450, 2), and sixteen codes in one corner, (16, 2)."""
    torch.manual_seed(0)
    angles = 2 * torch.pi * torch.rand(300)
    ring = 2 * torch.stack([angles.cos(), angles.sin()], 1) + 0.15 * torch.randn(300, 2)
    points = torch.cat([ring, 0.3 * torch.randn(150, 2)])
    return points, torch.tensor([2.4, 2.0]) + 0.25 * torch.randn(16, 2)


@torch.no_grad()
def rates(model: OneLayerVAE, images: Tensor, unseen: Tensor) -> list[float]:
    """What the codes of unseen images cost under priors fitted afterwards, in bits per dim.

    Args:
        model: a trained VQ-VAE.
        images: uint8 (N, 3, S, S), to fit the priors to.
        unseen: uint8 (M, 3, S, S), to be described.

    Returns:
        The rates of the uniform prior, of a histogram of the codes, and of a table of each code
        given the code to its left.
    """
    K = cast(NearestLatent, model.latent).values
    codes, new = model(images).codes[0].squeeze(-1), model(unseen).codes[0].squeeze(-1)
    histogram = codes.flatten().bincount(minlength=K) + 1.0  # one more: none is impossible
    histogram /= histogram.sum()
    pairs = (codes[:, :, :-1] * K + codes[:, :, 1:]).flatten()  # left code, right code
    table = pairs.bincount(minlength=K * K).view(K, K) + 8 * histogram
    table = (table / table.sum(1, keepdim=True)).log()
    alone = histogram.log()[new].sum()
    first = histogram.log()[new[:, :, 0]].sum()
    with_left = first + table[new[:, :, :-1], new[:, :, 1:]].sum()
    uniform = -new.numel() * torch.tensor(float(K)).log()
    dims = len(unseen) * model.settings.dims
    return [bits_per_dim(nats, dims).item() for nats in (uniform, alone, with_left)]


@torch.no_grad()
def posterior_of_one(model: OneLayerVAE, image: Tensor, row: int, column: int) -> Tensor:
    """The exact posterior of one latent variable, given an image and all its other codes.

    Args:
        model: a VQ-VAE; its prior is uniform.
        image: uint8 (3, S, S).
        row, column: of the latent variable.

    Returns:
        Log-probabilities in nats, (K,), with that of the chosen code first.
    """
    codes = model(image[None]).codes[0]  # (1, H, W, 1)
    K = cast(NearestLatent, model.latent).values
    tried = codes.repeat(K, 1, 1, 1)
    tried[:, row, column, 0] = (codes[0, row, column, 0] + torch.arange(K)) % K
    parameters = model.decode([cast(NearestLatent, model.latent).lookup(tried)])
    return model.likelihood.log_prob(image.expand(K, -1, -1, -1), parameters).log_softmax(0)


@torch.no_grad()
def painted(model: OneLayerVAE) -> Tensor:
    """What the decoder paints when all places hold the same code: (K, 3, S, S) from 0 to 1."""
    latent, grid = cast(NearestLatent, model.latent), model.settings.pyramid[0]
    same = torch.arange(latent.values)[:, None, None, None].expand(-1, grid, grid, 1)
    return (model.likelihood.mean(model.decode([latent.lookup(same)])) + 0.5).clamp(0, 1)


def _draw_codes(axis: Axes, codes: Tensor, colours: Tensor) -> None:
    """Draw a grid of codes (H, W), each cell with its number and its colour, of (K, 3)."""
    axis.imshow(colours[codes].numpy())
    for i, row in enumerate(codes.tolist()):
        for j, code in enumerate(row):
            dark = colours[code].mean() < 0.5
            axis.text(
                j, i, str(code), ha="center", va="center", fontsize=8, color="w" if dark else "k"
            )


@torch.no_grad()
def draw_passage(model: OneLayerVAE, image: Tensor) -> Figure:
    """Draw an image's way through a VQ-VAE: features, codes, vectors, reconstruction.

    Args:
        model: a VQ-VAE.
        image: uint8 (3, S, S).
    """
    import matplotlib.pyplot as plt

    features = channels_last(model.encode(image[None]))[0]  # (H, W, D)
    codes = model(image[None]).codes[0]  # (1, H, W, 1)
    latent = cast(NearestLatent, model.latent)
    vectors = channels_last(latent.lookup(codes))[0]
    rebuilt = (model.reconstruct(image[None])[0] + 0.5).clamp(0, 1)
    figure = plt.figure(figsize=(7.4, 4.5), layout="none")
    places = {
        "image": (0.01, 0.55, 0.20, 0.33),
        "features": (0.315, 0.60, 0.28, 0.225),
        "codes": (0.695, 0.21, 0.30, 0.495),
        "vectors": (0.315, 0.11, 0.28, 0.225),
        "rebuilt": (0.01, 0.06, 0.20, 0.33),
    }
    axes = {name: figure.add_axes(place) for name, place in places.items()}
    for axis in axes.values():
        axis.set_axis_off()
    size = features.abs().max().item()
    axes["image"].imshow(((pixels_to_reals(image) + 0.5).clamp(0, 1)).permute(1, 2, 0).numpy())
    axes["features"].imshow(mosaic(features).numpy(), cmap="PuOr", vmin=-size, vmax=size)
    axes["vectors"].imshow(mosaic(vectors).numpy(), cmap="PuOr", vmin=-size, vmax=size)
    axes["rebuilt"].imshow(rebuilt.permute(1, 2, 0).numpy())
    _draw_codes(axes["codes"], codes[0, :, :, 0], painted(model).mean((2, 3)))
    titles = {
        "image": "the eye $\\mathbf{x}$",
        "features": "features $\\mathbf{e}$: 8 numbers a place",
        "codes": f"codes $\\mathbf{{z}}$: one of {latent.values} a place",
        "vectors": "vectors $\\mathbf{E}^z$: 8 numbers a place",
        "rebuilt": "its reconstruction",
    }
    for name, title in titles.items():
        axes[name].set_title(title, loc="center", fontsize=10)
    arrow = {"arrowstyle": "-|>", "color": PALETTE[0], "linewidth": 2, "mutation_scale": 16}
    for start, end, y, words in (
        (0.22, 0.305, 0.71, "encoder"),
        (0.605, 0.69, 0.71, "nearest"),
        (0.69, 0.605, 0.22, "look up"),
        (0.305, 0.22, 0.22, "decoder"),
    ):
        tip, tail, middle = (end, y), (start, y), ((start + end) / 2, y)
        axes["image"].annotate("", tip, tail, "figure fraction", arrowprops=arrow)
        axes["image"].annotate(
            words, middle, (0, 7), "figure fraction", "offset points", ha="center", color=PALETTE[0]
        )
    return figure


def mosaic(maps: Tensor) -> Tensor:
    """Maps (H, W, 8) side by side in two rows of four, with gaps: (2 H + 1, 4 W + 3)."""
    H, W, _ = maps.shape
    sheet = torch.full((2 * H + 1, 4 * W + 3), torch.nan)
    for n, one in enumerate(maps.permute(2, 0, 1)):
        i, j = n // 4 * (H + 1), n % 4 * (W + 1)
        sheet[i : i + H, j : j + W] = one
    return sheet
