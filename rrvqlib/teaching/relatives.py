"""Relatives of the paper's codes on points of the plane: what a decoder sees in a point's place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rrvqlib.teaching.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What chapter 14 calls the stored runs rival-NAME.
LABELS = {
    "rrvq-l4": "RRVQ, 4 layers",
    "rrvq-l1": "RRVQ, 1 layer",
    "sq-vae-2": "SQ-VAE-2, 4 layers",
    "rrvq-l4-twice": "RRVQ, 4 layers, twice the images",
    "sq-vae-2-pixelcnn": "SQ-VAE-2, then PixelCNNs",
    "vqvae": "VQ-VAE",
    "fsq": "FSQ",
    "vqvae-pixelcnn": "VQ-VAE, then PixelCNN",
    "fsq-pixelcnn": "FSQ, then PixelCNN",
    "sq-vae": "SQ-VAE",
    "rsq-vae": "RSQ-VAE, 2 codebooks",
    "gm-vq": "GM-VQ",
    "spatial-l4": "Gaussians, 4 layers",
}


def points(number: int, seed: int = 0) -> Tensor:
    """Embeddings in the plane (N, 2): an arc with a width, such as an encoder might lay out."""
    generator = torch.Generator().manual_seed(seed)
    angle = 4.2 * torch.rand(number, generator=generator) - 0.55
    radius = 1.3 + 0.22 * torch.randn(number, generator=generator)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)


def spread_codes(number: int, radius: float = 1.0, turn: float = 0.3) -> Tensor:
    """Codes in the plane (K, 2): evenly on a ring, so that every direction has one."""
    angle = turn + torch.arange(number) * (2 * torch.pi / number)
    return radius * torch.stack((angle.cos(), angle.sin()), dim=1)


def draw_seen(
    e: Tensor,
    panels: Mapping[str, tuple[Tensor, Tensor]],
    words: Sequence[str] = ("embedding", "what can be chosen", "what the decoder sees"),
    reach: float = 2.1,
) -> Figure:
    """Each point joined to the vector that the decoder sees in its place, a panel a quantiser.

    Args:
        e: embeddings (N, 2).
        panels: by name what is seen, (N, 2), and the points that are marked, such as codes, (M, 2).
        words: of the legend, for points, for what is marked and for what is seen.
        reach: of the axes from the centre, in units of the plane.
    """
    import matplotlib.pyplot as plt

    rows = -(-len(panels) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(6.0, 2.45 * rows), sharex=True, sharey=True)
    for axis, (name, (seen, marked)) in zip(axes.flat, panels.items(), strict=False):
        pair = torch.stack((e, seen))  # (2, N, 2)
        axis.plot(pair[..., 0], pair[..., 1], color="#a8a8a8", linewidth=0.6)
        axis.plot(*e.T, ".", color=PALETTE[0], markersize=3)
        axis.plot(*marked.T, "x", color="black", markersize=5)
        axis.plot(*seen.T, "o", color=PALETTE[1], markersize=4)
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.set(xlim=(-reach, reach), ylim=(0.2 - reach, reach))
        axis.set_title(name, loc="center")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    lines = [
        plt.Line2D([], [], linestyle="", marker=marker, color=colour)
        for marker, colour in ((".", PALETTE[0]), ("x", "black"), ("o", PALETTE[1]))
    ]
    figure.legend(
        lines, words, loc="outside lower center", ncols=3, columnspacing=1, handletextpad=0
    )
    return figure


def millions(results: Path, names: Sequence[str]) -> list[float]:
    """Parameters of the stored runs rival-NAME, in millions, second stages included."""
    runs = (json.loads((results / f"rival-{name}" / "run.json").read_text()) for name in names)
    return [run["parameters"] / 1e6 for run in runs]
