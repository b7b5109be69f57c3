"""Four clouds of points in a plane, one wide and three narrow, and who claims which point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.responsibilities import log_responsibilities
from rrvqlib.teaching.figures import PALETTE

if TYPE_CHECKING:
    import matplotlib.axes

CENTRES = torch.tensor([[0.0, 0.0], [2.6, 0.0], [-1.3, 2.2], [-1.3, -2.2]])  # (4, 2)
DEVIATIONS = torch.tensor([2.0, 0.3, 0.3, 0.3])  # of each coordinate, the wide cloud first
COLOURS = [PALETTE[1], PALETTE[0], PALETTE[2], PALETTE[3]]
HALF_SIDE = 6.5  # of the window that is drawn


def clouds(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw points, each from one of the four clouds, all equally likely.

    Args:
        number: N.
        seed: of the draw.

    Returns:
        The points (N, 2), and which cloud made each of them, int64 (N,).
    """
    generator = torch.Generator().manual_seed(seed)
    makers = torch.randint(4, (number,), generator=generator)
    noise = torch.randn(number, 2, generator=generator)
    return CENTRES[makers] + DEVIATIONS[makers, None] * noise, makers


def homes(codebook: Codebook) -> Tensor:
    """The cloud whose centre is nearest to each code: int64 (K,)."""
    return torch.cdist(codebook.means.detach(), CENTRES).argmin(1)


def claimants(codebook: Codebook, points: Tensor) -> Tensor:
    """The cloud at which the most probable code of each point (N, 2) sits: int64 (N,)."""
    return homes(codebook)[log_responsibilities(points, codebook).argmax(1)]


def wrong(codebook: Codebook, points: Tensor, makers: Tensor) -> Tensor:
    """Which points are claimed by a code at another cloud than their maker: bool (N,)."""
    return claimants(codebook, points) != makers


def plot_points(
    axis: matplotlib.axes.Axes, points: Tensor, makers: Tensor, ringed: Tensor | None = None
) -> None:
    """Draw points (N, 2) in their makers' colours, those that are `ringed` with a black ring."""
    if ringed is None:
        ringed = torch.zeros(len(points), dtype=torch.bool)
    for cloud, colour in enumerate(COLOURS):
        for is_ringed in (False, True):
            x, y = points[(makers == cloud) & (ringed == is_ringed)].T.tolist()
            size, ring = (16, 0.9) if is_ringed else (9, 0.0)
            axis.scatter(x, y, size, colour, edgecolors="black", linewidths=ring)
    limits = (-HALF_SIDE, HALF_SIDE)
    axis.set(xlim=limits, ylim=limits, xticks=[], yticks=[], aspect="equal")
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.grid(visible=False)


def plot_regions(
    axis: matplotlib.axes.Axes, codebook: Codebook, points: Tensor, makers: Tensor
) -> None:
    """Draw points in their makers' colours on the regions that the codes at each cloud own.

    Rings mark the points that lie in a region of another cloud; circles have the radius of one
    standard deviation of the code at their middle.

    Args:
        axis: where.
        codebook: of size 2.
        points: (N, 2).
        makers: int64 (N,).
    """
    side = torch.linspace(-HALF_SIDE, HALF_SIDE, 400)
    grid = torch.stack(torch.meshgrid(side, -side, indexing="xy"), dim=-1)  # (400, 400, 2)
    owner = claimants(codebook, grid.flatten(0, 1)).view(400, 400)
    rgb = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])
    window = (-HALF_SIDE, HALF_SIDE, -HALF_SIDE, HALF_SIDE)
    axis.imshow((1 - 0.25 * (1 - rgb))[owner].numpy(), extent=window, zorder=0)
    plot_points(axis, points, makers, wrong(codebook, points, makers))
    plot_codes(axis, codebook)


def plot_codes(axis: matplotlib.axes.Axes, codebook: Codebook, *, circles: bool = True) -> None:
    """Draw a cross at each code, and a circle of one standard deviation."""
    from matplotlib.patches import Circle

    radii = torch.ones(codebook.codebook_size)
    if codebook.log_variances is not None:
        radii = (codebook.log_variances.detach() / 2).exp()
    for (x, y), radius in zip(codebook.means.tolist(), radii.tolist(), strict=True):
        axis.plot(x, y, "P", color="black", markeredgecolor="white", markersize=8)
        if circles:
            axis.add_patch(Circle((x, y), radius, fill=False, color="black", linewidth=1.3))
