"""What a model pays for its codes and what it then gets right: the two halves of a score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rrvqlib.models.base import VAE
from rrvqlib.objectives.elbo import ElboTerms, bits_per_dim
from rrvqlib.runs.scoring import score
from rrvqlib.teaching.figures import PALETTE

if TYPE_CHECKING:
    import matplotlib.axes


def rate_and_reconstruction(model: VAE, images: Tensor) -> tuple[float, float]:
    """The KL of all layers, and the pixels given the codes; their sum is the score.

    Args:
        model: trained.
        images: uint8 (N, 3, S, S).

    Returns:
        Both, in bits per dim.
    """
    found = score(model, images)
    rate = sum(found["kl_bits_per_dim"])
    return rate, found["bits_per_dim"] - rate


def discount_kl(model: VAE, weight: float) -> None:
    """Show training only a part of the KL; a model in `eval()` pays all of it, as every score does.

    Args:
        model: changed in place.
        weight: of the KL; 1 changes nothing.
    """

    def discounted(model: nn.Module, _: object, terms: ElboTerms) -> ElboTerms:
        if not model.training:
            return terms
        return replace(terms, kl_maps=tuple(weight * kl for kl in terms.kl_maps))

    model.register_forward_hook(discounted)


@torch.no_grad()
def price_map(model: VAE, images: Tensor) -> Tensor:
    """What each latent variable of the first layer costs: uint8 (B, 3, S, S) -> (B, H, W) bits."""
    return model(images).kl_maps[0] / math.log(2)


@torch.no_grad()
def score_at(model: VAE, images: Tensor, temperature: float | None) -> float:
    """Bits per dim of uint8 images (B, 3, S, S), with samples relaxed at a temperature.

    Args:
        model: in any mode; this leaves it as it is.
        images: uint8 (B, 3, S, S).
        temperature: of the samples; None for codes, which alone give a bound on log p(x).
    """
    relaxed = None if temperature is None else torch.tensor(temperature)
    return bits_per_dim(model(images, relaxed).elbo.mean().item(), model.settings.dims)


def train_watched(
    model: VAE, images: Tensor, last_temperature: float, steps: int, watch: Tensor
) -> Tensor:
    """Train a model while its samples cool from temperature 1, scoring it in two ways.

    Args:
        model: as built.
        images: uint8 (N, 3, S, S), of which each step draws 16.
        last_temperature: of the samples at the last step; it falls by one factor a step.
        steps: how many.
        watch: uint8 images (M, 3, S, S), scored at every 20th step.

    Returns:
        Three rows of n numbers, the step, then bits per dim with samples as in training, then with
        true codes.
    """
    model.initialise(images[:64])
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.02)
    history = []
    for step in range(steps + 1):
        now = last_temperature ** (step / steps)
        if step % 20 == 0:
            history.append([step, score_at(model, watch, now), score_at(model, watch, None)])
        batch = images[torch.randint(len(images), (16,))]
        loss = -model(batch, torch.tensor(now)).elbo.mean() / model.settings.dims
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return torch.tensor(history).T


def draw_image(axis: matplotlib.axes.Axes, image: Tensor, title: str) -> None:
    """Draw an image (3, S, S), uint8 or reals in (-1/2, 1/2), as a panel without axes."""
    image = image if image.dtype == torch.uint8 else (image + 0.5).clamp(0, 1)
    axis.imshow(image.permute(1, 2, 0).numpy())
    axis.set_title(title, loc="center")
    axis.set_axis_off()


def draw_prices(axis: matplotlib.axes.Axes, prices: Tensor, title: str, most: float) -> None:
    """Draw what each code costs, (H, W) bits up to `most`, as a panel of coloured numbers."""
    axis.imshow(prices.numpy(), cmap="YlOrBr", vmin=0, vmax=most)
    for row, line in enumerate(prices.tolist()):
        for column, bits in enumerate(line):
            colour = "white" if bits > most / 2 else "black"
            place: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "fontsize": "small",
                "color": colour,
            }
            axis.text(column, row, f"{bits:.0f}", **place)
    axis.set_title(title, loc="center")
    axis.set_axis_off()


def plane(axis: matplotlib.axes.Axes, models: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Draw models in the plane of rate and reconstruction, over lines of equal score.

    Args:
        axis: to draw on.
        models: for each name one point a seed, rate and reconstruction in bits per dim.
    """
    points = torch.tensor([point for seeds in models.values() for point in seeds])  # (N, 2)
    right = points[:, 0].max().item() + 0.12
    low, high = points[:, 1].min().item() - 0.06, points[:, 1].max().item() + 0.06
    for tenth in range(math.ceil(10 * low) + 1, math.floor(10 * (right + high)) - 1):
        total = tenth / 10
        axis.axline((0, total), slope=-1, color="#c8c8c8", linewidth=0.8, zorder=0)
        x = max(0.01, total - high + 0.02)  # the line enters at the left or at the top
        label: dict[str, Any] = {
            "rotation": -45,
            "color": "#707070",
            "fontsize": "small",
            "va": "top",
        }
        axis.text(x, total - x, f"{total:.1f}", rotation_mode="anchor", **label)
    for (name, seeds), colour, marker in zip(models.items(), PALETTE, "osD^vP", strict=False):
        rates, pixels = torch.tensor(seeds).T
        axis.plot(rates, pixels, marker, color=colour, markersize=8, alpha=0.8)
        place = rates.max().item(), pixels.mean().item()
        axis.annotate(name, place, (8, 0), textcoords="offset points", color=colour, va="center")
    axis.set(xlabel="rate: the codes, bits per dim", ylabel="reconstruction: the pixels, bits/dim")
    axis.set(xlim=(0, right), ylim=(low, high), aspect="equal")
    axis.grid(visible=False)
