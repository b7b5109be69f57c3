"""The one plotting style of the book, and plots that several chapters share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any kind of colour vision; black leads as text does.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]


def use_style() -> None:
    """Set matplotlib's defaults for the book: quiet axes, white ground, no frame, PNG."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 120,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",  # dark pages show figures on a white card
            "font.size": 10,
            "grid.color": "#e5e5e5",
            "grid.linewidth": 0.8,
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "savefig.bbox": "tight",
        }
    )


def show_images(images: Tensor, columns: int, titles: Sequence[str] | None = None) -> Figure:
    """Draw uint8 images (N, 3, H, W) in rows of `columns`, one title per column if given."""
    import matplotlib.pyplot as plt

    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(0.75 * columns, 0.75 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image in zip(axes.flat, images, strict=False):
        axis.imshow(image.permute(1, 2, 0).to(torch.uint8).numpy())
    for axis, title in zip(axes[0], titles or [], strict=False):
        axis.set_title(title, fontsize="small", loc="center")
    return figure


def mosaic(images: Tensor, columns: int) -> Tensor:
    """Images side by side with a white line between them, for `imshow`.

    Args:
        images: uint8 (N, 3, S, S).
        columns: images a row.

    Returns:
        uint8 (H, W, 3).
    """
    S = images.shape[-1] + 1
    rows = -(-len(images) // columns)
    sheet = torch.full((rows * S - 1, columns * S - 1, 3), 255, dtype=torch.uint8)
    for n, image in enumerate(images):
        y, x = S * (n // columns), S * (n % columns)
        sheet[y : y + S - 1, x : x + S - 1] = image.permute(1, 2, 0)
    return sheet
