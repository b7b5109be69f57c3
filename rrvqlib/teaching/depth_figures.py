"""The figures of the chapters on depth and on full scale: stored runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rrvqlib.teaching.depth import Depth, Parts, bits_per_code
from rrvqlib.teaching.figures import PALETTE, show_images
from rrvqlib.teaching.records import Course

if TYPE_CHECKING:
    import matplotlib.axes
    from matplotlib.figure import Figure

GRIDS = (16, 8, 4, 2)
SEED_SPREAD = 0.05  # what another seed moves a score after 14,400 images by, bits/dim (chapter 8)
# One colour a model, by the beginning of its name; the widget of the gaps has the same.
MODELS = {
    "one layer": PALETTE[3],
    "six layers of Gaussians": PALETTE[1],
    "six layers": PALETTE[0],
    "32 ": PALETTE[2],
    "photographs": PALETTE[6],
}


def colour_of(name: str) -> str:
    """The colour of a model, whatever else its name says after its kind."""
    return next(colour for start, colour in MODELS.items() if name.startswith(start))


def draw_two_models(
    pairs: Mapping[str, Tensor], samples: Mapping[str, Tensor], columns: int = 8
) -> Figure:
    """Rows of pairs and of samples, the model's name at the left of its first row.

    Args:
        pairs: name of a model -> uint8 (N, 3, S, S), reconstruction, original, reconstruction ...
        samples: name of a model -> uint8 (N, 3, S, S).
        columns: images a row.
    """
    blocks = [(f"{name}\nrebuilds", sheet) for name, sheet in pairs.items()]
    blocks += [(f"{name}\ndraws", sheet) for name, sheet in samples.items()]
    figure = show_images(torch.cat([sheet for _, sheet in blocks]), columns)
    figure.set_size_inches(0.72 * columns, 0.78 * len(figure.axes) / columns)
    row = 0
    for label, sheet in blocks:
        axis = figure.axes[columns * row]
        axis.text(-0.15, 0.5, label, transform=axis.transAxes, ha="right", va="center", fontsize=10)
        row += -(-len(sheet) // columns)
    return figure


def draw_parts(parts: Mapping[str, Parts]) -> Figure:
    """Scores as bars of two parts, KL and pixels."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 0.5 + 0.62 * len(parts)))
    for y, part in enumerate(parts.values()):
        axis.barh(y, part.kl, color=PALETTE[0], label="KL" if y == 0 else None)
        axis.barh(
            y, part.pixels, left=part.kl, color=PALETTE[5], label="pixels" if y == 0 else None
        )
        middle = part.kl + part.pixels / 2
        axis.text(middle, y, f"{part.pixels:.2f}", ha="center", va="center", color="black")
        axis.text(part.kl / 2, y, f"{part.kl:.2f}", ha="center", va="center", color="white")
        axis.text(part.score + 0.05, y, f"{part.score:.2f}", va="center")
    axis.set_yticks(range(len(parts)), list(parts))
    axis.set(
        xlabel="bits per dim, test images", xlim=(0, 1.1 * max(p.score for p in parts.values()))
    )
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def draw_effects(rows: Mapping[str, Sequence[Tensor]], titles: Sequence[str]) -> Figure:
    """Maps (S, S), each scaled to its own largest value; a row has a name, a column a title."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(rows), len(titles), figsize=(1.75 * len(titles), 1.9 * len(rows)), squeeze=False
    )
    for line, (name, maps) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=11)
        for axis, effect in zip(line, maps, strict=True):
            axis.imshow((effect / effect.max()).sqrt().numpy(), cmap="magma", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=11, loc="center")
    return figure


def draw_kl(axes: Sequence[matplotlib.axes.Axes], kl: Sequence[float], per_grid: int = 8) -> None:
    """Bars of the KL of each layer, l = 1 first: of all its codes on a log axis, and of one code.

    Args:
        axes: two of them, bits per dim and bits per code; the same limits for every model.
        kl: bits/dim; `per_grid` layers on each grid.
    """
    sides = [side for side in GRIDS for _ in range(per_grid)]
    for axis, bits in zip(axes, (kl, bits_per_code(kl, sides)), strict=True):
        for n, side in enumerate(GRIDS):
            layers = range(per_grid * n + 1, per_grid * (n + 1) + 1)
            bars = bits[per_grid * n : per_grid * (n + 1)]
            axis.bar(layers, bars, color=PALETTE[n], label=f"{side} × {side}")
        axis.set(xlabel="layer (1 is nearest the pixels)")
    axes[0].set(yscale="log", ylim=(1e-4, 0.3), title="KL of a layer, bits per dim")
    axes[1].set(ylim=(0, 2), title="KL of one code, bits")


def draw_layers(kl: Sequence[float]) -> Figure:
    """The KL of each layer and of each code, l = 1 first; `kl` in bits/dim."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.1))
    draw_kl(axes, kl)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def draw_agreement(curves: Mapping[str, Sequence[float]], distances: Sequence[int]) -> Figure:
    """How far pixels agree, a curve a model: correlation against distance in pixels."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    for (name, values), shape in zip(curves.items(), "os^D", strict=False):
        axis.plot(distances, values, shape + "-", color=colour_of(name), label=name, markersize=5)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xlabel="distance, pixels", ylabel="correlation of brightness", ylim=(-0.1, 1))
    axis.legend(fontsize="small")
    return figure


def draw_depths(runs: Sequence[Depth]) -> Figure:
    """Scores against all layers, and against those at 16 x 16, with the spread of a seed."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(6.2, 3.3), sharey=True)
    shapes = {1: ("o", PALETTE[1]), 2: ("s", PALETTE[2]), 4: ("D", PALETTE[0])}
    for axis, what in zip(axes, ("layers", "finest"), strict=True):
        for run in runs:
            shape, colour = shapes.get(run.finest, ("^", PALETTE[3]))
            axis.errorbar(
                getattr(run, what), run.score, SEED_SPREAD, fmt=shape, color=colour, markersize=7
            )
        axis.set(xscale="log")
        ticks = sorted({getattr(run, what) for run in runs})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0].set(xlabel="all layers", ylabel="bits per dim, validation")
    axes[1].set(xlabel="layers at 16 × 16")
    for number, (shape, colour) in shapes.items():
        axes[1].plot([], [], shape, color=colour, label=f"{number} at 16 × 16")
    axes[1].plot([], [], "^", color=PALETTE[3], label="more")
    axes[1].legend(fontsize="small")
    return figure


def draw_budgets(series: Mapping[str, Sequence[Depth]]) -> Figure:
    """Scores against the number of layers, a curve for each way of sharing out a budget."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    colours = (PALETTE[6], PALETTE[4])  # no model's
    for (name, runs), style, colour in zip(series.items(), "os", colours, strict=False):
        depths, scores = [run.layers for run in runs], [run.score for run in runs]
        axis.plot(depths, scores, style + "-", color=colour, label=name)
    ticks = sorted({run.layers for runs in series.values() for run in runs})
    axis.set(xscale="log", xlabel="layers", ylabel="bits per dim, validation", ylim=(5.65, 6.65))
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.legend()
    return figure


def draw_courses(courses: Mapping[str, Sequence[Course]]) -> Figure:
    """Validation scores and KLs against images seen; a name's first run solid, others dotted."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.2))
    for name, runs in courses.items():
        colour = colour_of(name)
        for n, run in enumerate(runs):
            style, label = ("-", name) if n == 0 else (":", None)
            left.plot(run.images / 1000, run.score, style, color=colour, label=label)
            right.plot(run.images / 1000, run.kl, style, color=colour)
    left.set(xlabel="thousand images seen", title="validation, bits per dim", ylim=(4.3, 6.6))
    right.set(xlabel="thousand images seen", title="KL, bits per dim")
    left.legend(fontsize="small")
    return figure


def draw_gaps(gaps: Mapping[str, Sequence[tuple[Tensor, Tensor]]]) -> Figure:
    """Gaps against images seen.

    Args:
        gaps: name -> for each seed, the first solid and others dotted, images seen and gap in
            bits/dim, both (T,).
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for (name, seeds), colour in zip(gaps.items(), (PALETTE[6], PALETTE[4]), strict=False):
        for n, (images, gap) in enumerate(seeds):
            style = "o-" if n == 0 else "o:"
            label = name if n == 0 else None
            axis.plot(images / 1000, gap, style, color=colour, label=label, markersize=3.5)
    axis.set(xlabel="thousand images seen", ylabel="gap, bits per dim", ylim=(0, 0.95))
    figure.legend(loc="outside upper center", ncols=1, fontsize="small")
    return figure
