"""Hierarchies looked at from outside: what codes share, one pass drawn, layers drawn anew."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from rrvqlib.latents.base import DiscreteLatent, channels_last, of_codes
from rrvqlib.latents.codebook import CodebookLatent
from rrvqlib.likelihoods.base import pixels_to_reals, reals_to_pixels
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.teaching.codebooks import mosaic
from rrvqlib.teaching.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def scattered(codes: Tensor) -> Tensor:
    """Codes (N, H, W, G) with the images of every place in an order of its own.

    At each place the codes are as frequent as before; which codes stand together is chance.
    """
    N, H, W, _ = codes.shape
    orders = torch.stack([torch.randperm(N) for _ in range(H * W)], dim=1)  # (N, H W)
    return codes.flatten(1, 2)[orders, torch.arange(H * W)].unflatten(1, (H, W))


def shared_bits(one: Tensor, other: Tensor, codes: int) -> float:
    """Mutual information of two codes in bits, by counting pairs.

    Args:
        one: int64 of any shape, from 0 to `codes` - 1.
        other: the same shape.
        codes: K.
    """
    pairs = (one * codes + other).flatten().bincount(minlength=codes**2).view(codes, codes)
    p = pairs.double() / pairs.sum()
    independent = p.sum(1, keepdim=True) * p.sum(0)
    seen = p > 0
    return (p[seen] * (p[seen] / independent[seen]).log2()).sum().item()


@torch.no_grad()
def enumerate_layers(model: HierarchicalVAE, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every setting of all codes of a tiny hierarchy, through the top-down chain as one batch.

    Args:
        model: of M variables in all, each with K codes; K^M should be small.
        images: uint8 (B, 3, S, S), B >= 1.

    Returns:
        log q(z | x) (B, K^M), log p(z) and log p(x | z) of the same shape, in nats.
    """
    sides, K = model.settings.pyramid, cast(DiscreteLatent, model.latents[0]).values
    every = torch.tensor(list(itertools.product(range(K), repeat=sum(s * s for s in sides))))
    parts = every.split([side**2 for side in sides], dim=1)
    z = [part.view(-1, side, side, 1) for part, side in zip(parts, sides, strict=True)]
    found = []
    for image in images:
        copies = image.expand(len(every), -1, -1, -1)
        features, state = model.encoder(pixels_to_reals(copies)), model.decoder.top(len(every))
        log_q, log_p = torch.zeros(len(every)), torch.zeros(len(every))
        for layer, feature, codes in zip(model.layers[::-1], features[::-1], z[::-1], strict=True):
            latent = cast(DiscreteLatent, layer.latent)
            posterior, prior = layer.posterior(feature, state), layer.prior(state)
            log_q += of_codes(latent.log_posterior(posterior), codes).flatten(1).sum(1)
            log_p += of_codes(latent.log_prior(prior), codes).flatten(1).sum(1)
            state = layer.decode(state, latent.lookup(codes))
        parameters = model.decoder.head(state)
        found.append((log_q, log_p, model.likelihood.log_prob(copies, parameters)))
    log_q, log_p, log_likelihood = (torch.stack(part) for part in zip(*found, strict=True))
    return log_q, log_p, log_likelihood


@torch.no_grad()
def resampled(model: HierarchicalVAE, images: Tensor, draws: int) -> list[Tensor]:
    """Images whose topmost layers keep their codes while all layers below are drawn anew.

    Args:
        model: a hierarchy.
        images: uint8 (B, 3, S, S).
        draws: of the layers below; the codes that are kept stay the same.

    Returns:
        For 0, 1, ... L layers kept uint8 (draws, B, 3, S, S).
    """
    vectors = [draw.vectors for draw in model.infer(images, None).draws]
    many = [vector.repeat(draws, 1, 1, 1) for vector in vectors]
    found = []
    for kept in range(len(vectors) + 1):
        parameters = model.decode_prior(draws * len(images), keep=many[len(vectors) - kept :])
        pixels = reals_to_pixels(model.likelihood.mean(parameters))
        found.append(pixels.unflatten(0, (draws, len(images))))
    return found


@torch.no_grad()
def moved_by(model: HierarchicalVAE, images: Tensor, anew: int) -> float:
    """How far a picture moves when one layer is drawn anew, in levels (root mean square).

    Args:
        model: a hierarchy.
        images: uint8 (B, 3, S, S).
        anew: the layer that is drawn from its prior given the layers above, from 1. All others
            have codes from one draw of the posterior.
    """
    vectors = [draw.vectors for draw in model.infer(images, None).draws]
    parameters = [model.decode(vectors)]
    state = model.decoder.top(len(images))
    for number in range(len(vectors), 0, -1):
        layer = model.layers[number - 1]
        if number == anew:
            vectors[number - 1] = layer.latent.sample(layer.prior(state))
        state = layer.decode(state, vectors[number - 1])
    parameters.append(model.decoder.head(state))
    kept, moved = (reals_to_pixels(model.likelihood.mean(p)).float() for p in parameters)
    return (moved - kept).square().mean().sqrt().item()


@torch.no_grad()
def embeddings_and_codes(model: HierarchicalVAE, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each layer, l = 1 first: posterior embeddings (N, D) and the codes drawn for them (N,)."""
    features, state = model.encoder(pixels_to_reals(images)), model.decoder.top(len(images))
    found = []
    for layer, feature in zip(reversed(model.layers), reversed(features), strict=True):
        posterior = layer.posterior(feature, state)
        draw = layer.latent.draw(posterior, layer.prior(state), None)
        assert draw.codes is not None  # a layer of codes
        state = layer.decode(state, draw.vectors)
        found.insert(0, (channels_last(posterior).flatten(0, 2), draw.codes.flatten()))
    return found


def mean_distances(embeddings: Tensor, codes: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """How far the embeddings of each code lie from it, on average.

    Args:
        embeddings: (N, D).
        codes: (N,), each embedding's.
        means: (K, D).

    Returns:
        The mean distance of each code, 0 for one that has no embedding, and how many it has; (K,).
    """
    distances = (embeddings - means[codes]).norm(dim=1)
    counts = codes.bincount(minlength=len(means))
    sums = torch.zeros(len(means)).index_add_(0, codes, distances)
    return sums / counts.clamp_min(1), counts


@torch.no_grad()
def draw_pass(model: HierarchicalVAE, image: Tensor, place: Sequence[tuple[int, int]]) -> Figure:
    """Draw an image's way through a hierarchy of 2 x 2, 4 x 4 and 8 x 8 codes, or the like.

    Args:
        model: a hierarchy of codes.
        image: uint8 (3, S, S).
        place: row and column of the place in each layer, l = 1 first, whose prior and posterior
            are drawn.
    """
    import matplotlib.pyplot as plt

    features, state = model.encoder(pixels_to_reals(image[None])), model.decoder.top(1)
    L, kept = len(model.layers), []
    figure, axes = plt.subplots(
        L + 1, 4, figsize=(7.6, 1.75 * (L + 1)), width_ratios=(1.6, 1.5, 1, 1), squeeze=False
    )
    for row, number in enumerate(range(L, 0, -1)):
        layer, feature = model.layers[number - 1], features[number - 1]
        latent, (i, j) = cast(CodebookLatent, layer.latent), place[number - 1]
        posterior, prior = layer.posterior(feature, state), layer.prior(state)
        log_q, log_p = latent.log_posterior(posterior), latent.log_prior(prior)
        draw = latent.draw(posterior, prior, None)
        assert draw.codes is not None
        state = layer.decode(state, draw.vectors)
        kept.insert(0, draw.vectors)
        maps = channels_last(feature)[0, :, :, :8]
        size = maps.abs().max().item()
        axes[row, 0].imshow(mosaic(maps).numpy(), cmap="PuOr", vmin=-size, vmax=size)
        _draw_two(axes[row, 1], log_p[0, i, j, 0].exp(), log_q[0, i, j, 0].exp())
        _draw_bits(axes[row, 2], draw.codes[0, :, :, 0], draw.kl[0] / 0.6931, (i, j))
        many = [vector.repeat(64, 1, 1, 1) for vector in kept]
        likely = model.likelihood.mean(model.decode_prior(64, keep=many)).mean(0)
        axes[row, 3].imshow(reals_to_pixels(likely[None])[0].permute(1, 2, 0).numpy())
        axes[row, 0].set_ylabel(f"layer {number}")
    axes[L, 0].imshow(image.permute(1, 2, 0).numpy())
    axes[L, 0].set_ylabel("pixels")
    for axis in (*axes[:, 0], *axes[:, 2], *axes[:, 3]):
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    for axis in axes[L, 1:]:
        axis.set_axis_off()
    axes[L, 2].text(0, 0.6, "1 is computed upwards,\n2, 3 and 4 downwards", va="center")
    arrow = {"arrowstyle": "-|>", "color": PALETTE[0], "linewidth": 1.6, "mutation_scale": 13}
    for row in range(L):
        below = axes[row, 0]
        below.annotate("", (0.5, -0.02), (0.5, -0.26), "axes fraction", arrowprops=arrow)
        below.annotate("enc", (0.54, -0.13), xycoords="axes fraction", va="center", size=9)
        if row < L - 1:
            below = axes[row, 3]
            below.annotate("", (0.5, -0.22), (0.5, -0.02), "axes fraction", arrowprops=arrow)
            below.annotate("dec", (0.54, -0.11), xycoords="axes fraction", va="center", size=9)
    titles = "1. features", "2. prior and posterior", "3. codes, bits", "4. picture so far"
    figure.draw_without_rendering()  # now the axes are where they will be
    for axis, title in zip(axes[0], titles, strict=True):
        box = axis.get_position()
        figure.text((box.x0 + box.x1) / 2, 1.01, title, ha="center", va="bottom")
    return figure


def _draw_two(axis: Axes, prior: Tensor, posterior: Tensor) -> None:
    """Two distributions over K codes, the prior below the line."""
    where = range(len(prior))
    axis.bar(where, posterior.numpy(), color=PALETTE[1], width=1, label="posterior")
    axis.bar(where, -prior.numpy(), color=PALETTE[0], width=1, label="prior")
    axis.axhline(0, color="black", linewidth=0.6)
    most = max(prior.max().item(), posterior.max().item())
    axis.set(xticks=[], yticks=[], ylim=(-1.4 * most, 1.4 * most))
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)
    axis.spines["bottom"].set_visible(False)
    axis.text(len(prior) - 1, 1.35 * most, "posterior", color=PALETTE[1], ha="right", va="top")
    axis.text(len(prior) - 1, -1.35 * most, "prior", color=PALETTE[0], ha="right", va="bottom")


def _draw_bits(axis: Axes, codes: Tensor, bits: Tensor, marked: tuple[int, int]) -> None:
    """A grid of codes (H, W) on a ground that is the darker the more bits (H, W) they cost."""
    from matplotlib.patches import Rectangle

    axis.imshow(bits.numpy(), cmap="Blues", vmin=0, vmax=6)
    for i, row in enumerate(codes.tolist()):
        for j, code in enumerate(row):
            dark = bits[i, j] > 3.5
            axis.text(
                j,
                i,
                str(code),
                ha="center",
                va="center",
                fontsize=5 if len(codes) > 4 else 8,
                color="w" if dark else "k",
            )
    i, j = marked
    square = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=PALETTE[1], linewidth=2)
    axis.add_patch(square)
