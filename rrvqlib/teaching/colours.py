"""Three colours of a pixel: what they share, and where a model's bits go, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rrvqlib.likelihoods.base import Likelihood
from rrvqlib.models.base import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR = 1e-30  # of a mass, for its logarithm; below what float64 tells from 0 next to 1
NAMES = ("red", "green", "blue")
# Red, green, blue; then layers of codes in greys, of which the darkest is layer 1.
COLOURS = ("#c0392b", "#27ae60", "#2c6fbb")
GREYS = ("#333333", "#555555", "#777777", "#999999", "#bbbbbb", "#dddddd")


@torch.no_grad()
def bits_of_channels(model: VAE, images: Tensor) -> Tensor:
    """Bits of every sub-pixel given the channels before it, and one draw of all codes.

    The chain rule: over the channels of a pixel they sum to what the likelihood says of it, with
    masses that sum to 1 (Kingma's, whose bins leave some out, are divided by their sum).

    Args:
        model: its likelihood says what a channel is, given those that are known.
        images: uint8 (B, 3, S, S).

    Returns:
        (B, 3, S, S) float64.
    """
    parameters = model.infer(images, None).parameters.double()
    bits = []
    for c in range(3):
        channel = model.likelihood.next_channel(parameters, images[:, :c])
        value = images[:, c].long()
        mass = channel.below(torch.stack((value, value + 1))).diff(dim=0)[0]
        bits.append(-mass.clamp_min(FLOOR).log2())
    return torch.stack(bits, dim=1)


@torch.no_grad()
def bits_by_part(model: VAE, images: Tensor, seed: int = 1) -> Tensor:
    """Bits per dim of red, green and blue, then of every layer of codes, l = 1 first: (3 + L,).

    Args:
        model: as for `bits_of_channels`.
        images: uint8 (B, 3, S, S).
        seed: of the draws of codes.
    """
    torch.manual_seed(seed)
    channels = bits_of_channels(model, images).sum((2, 3)).mean(0)
    codes = model(images, None).kl.mean(0) / math.log(2)
    return torch.cat((channels, codes)) / model.settings.dims


def joint(likelihood: Likelihood, parameters: Tensor) -> Tensor:
    """The probability of each red with each green of one pixel, (256, 256).

    Args:
        likelihood: says what a channel is, given those before.
        parameters: the decoder's output for the pixel, (1, C, 1, 1).
    """
    edges, reds = torch.arange(257), torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    every = parameters.double().expand(256, -1, 1, 1)
    red = likelihood.next_channel(every[:1], reds[:1, :0]).below(edges).diff(dim=0).flatten()
    green = likelihood.next_channel(every, reds).below(edges).diff(dim=0)  # (256, 256, 1, 1)
    return red.unsqueeze(1) * green[:, :, 0, 0].T


def parameters_of(
    mean: Sequence[Sequence[float]],
    log_scale: Sequence[Sequence[float]],
    alpha: Sequence[float],
) -> Tensor:
    """What a decoder outputs for one pixel whose red and green are described by a mixture.

    All weights are equal, and blue is at rest.

    Args:
        mean: of red and of green, each a number for each of I components.
        log_scale: the same, relative to the likelihood's first one.
        alpha: red in green, before the hyperbolic tangent; I numbers.

    Returns:
        (1, 10 I, 1, 1); the likelihood multiplies by 3.
    """
    raw = torch.zeros(1, 10, len(alpha))
    raw[0, 1:3], raw[0, 4:6], raw[0, 7] = map(torch.tensor, (mean, log_scale, alpha))
    return raw.view(1, -1, 1, 1) / 3


def draw_channels(patch: Tensor) -> Figure:
    """A uint8 patch (3, S, S), its channels as grey pictures, and differences of neighbours."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(6.2, 4.4))
    values = patch.int()
    panels = {name: values[c] for c, name in enumerate(NAMES)}
    panels["the patch"] = patch.permute(1, 2, 0)
    panels["green less red"] = values[1] - values[0] + 128
    panels["blue less green"] = values[2] - values[1] + 128
    for axis, (name, panel) in zip(axes.flat, panels.items(), strict=True):
        axis.imshow(panel.numpy(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(name, loc="center")
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def draw_pairs(residuals: Tensor, pairs: Sequence[tuple[int, int]]) -> Figure:
    """Scatter plots of two channels each.

    Args:
        residuals: red, green and blue in units of a pixel value, (3, N).
        pairs: numbers of the channels along x and y.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(pairs), figsize=(7.4, 2.8), sharex=True, sharey=True, squeeze=False
    )
    for axis, (a, b) in zip(axes[0], pairs, strict=True):
        axis.plot(residuals[a], residuals[b], ".", markersize=1.5, alpha=0.4)
        axis.set(xlim=(-100, 100), ylim=(-100, 100), aspect="equal")
        axis.set(xlabel=NAMES[a], ylabel=NAMES[b])
    return figure


def draw_joints(cases: Mapping[str, Tensor]) -> Figure:
    """Heat maps of p(red, green), (256, 256) each, by name; square roots, so that tails show."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(cases), figsize=(7.6, 2.9), squeeze=False)
    for axis, (name, p) in zip(axes[0], cases.items(), strict=True):
        axis.imshow(p.T.sqrt().numpy(), origin="lower", cmap="viridis")
        axis.set(xlabel="red", ylabel="green", xlim=(48, 208), ylim=(48, 208))
        axis.set_title(name, loc="center")
        axis.grid(visible=False)
    return figure


def draw_parts(rows: Mapping[str, Sequence[float]]) -> Figure:
    """Stacked bars, one a model: red, green, blue, layers of codes, bits per dim.

    Args:
        rows: for each label 3 + L numbers, as `bits_by_part` returns them.
    """
    import matplotlib.pyplot as plt

    layers = len(next(iter(rows.values()))) - 3
    names = [*NAMES, *(f"layer {n}" for n in range(1, layers + 1))]
    figure, axis = plt.subplots(figsize=(6.2, 0.5 * len(rows) + 2.0))
    for row, values in enumerate(rows.values()):
        start = 0.0
        for value, colour, name in zip(values, COLOURS + GREYS, names, strict=False):
            bar = axis.barh(row, value, left=start, color=colour, label=None if row else name)
            if name in NAMES:
                axis.bar_label(bar, fmt="%.2f", label_type="center", color="white")
            start += value
        axis.text(start + 0.03, row, f"{start:.2f}", va="center")
    longest = max(sum(values) for values in rows.values())
    axis.set(yticks=range(len(rows)), yticklabels=list(rows), xlabel="bits per dim")
    axis.set_xlim(0, 1.08 * longest)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    columns = 1 + -(-layers // 3)  # the colours, then three layers each
    figure.legend(loc="outside lower center", ncols=columns, handlelength=1)
    return figure


def draw_maps(patch: Tensor, bits: Mapping[str, Tensor], most: float = 10) -> Figure:
    """Bits of every sub-pixel of one patch, a row for each model.

    Args:
        patch: uint8 (3, S, S).
        bits: by name, (3, S, S).
        most: what is drawn white.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(bits), 4, figsize=(6.4, 1.8 * len(bits) + 0.5), squeeze=False)
    for row, (name, channels) in zip(axes, bits.items(), strict=True):
        row[0].imshow(patch.permute(1, 2, 0).numpy())
        row[0].set_ylabel(name)
        for axis, channel, title in zip(row[1:], channels, NAMES, strict=True):
            image = axis.imshow(channel.numpy(), vmin=0, vmax=most, cmap="magma")
            axis.set_title(f"{title}: {channel.mean():.1f}", loc="center")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
    bar = figure.colorbar(
        image, ax=axes, location="bottom", extend="max", shrink=0.6, aspect=30, pad=0.03
    )
    bar.set_label("bits of a sub-pixel")
    return figure
