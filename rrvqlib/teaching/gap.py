"""Why codes score worse than Gaussians: what chapter 13 draws of stored runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rrvqlib.latents.codebook import Codebook, nearest_codes
from rrvqlib.teaching.figures import PALETTE
from rrvqlib.teaching.records import curve, gap_curve, scores_of, seeds_of, stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOGISTIC, RECIPE = "cifar10-cpu", "cifar10-cpu-mixture"
MIXTURE, FOUR, REINMAX = (f"{RECIPE}-{end}" for end in ("one-of-64", "four-of-64", "reinmax"))
RUNS = {"logistic": LOGISTIC, "mixture": MIXTURE}
FINE = f"{RECIPE}-from-32"  # with a layer at 32 x 32
TWINS = {LOGISTIC: f"{LOGISTIC}-spatial", FINE: f"{RECIPE}-spatial-from-32"} | dict.fromkeys(
    (MIXTURE, FOUR, RECIPE, REINMAX), f"{RECIPE}-spatial"
)
STAGES = {
    "logistic, one of 64": LOGISTIC,
    "mixture, one of 64": MIXTURE,
    "mixture, four of 64": FOUR,
}
ENDS = STAGES | {
    "mixture, four of 16": RECIPE,
    "four of 16, ReinMax": REINMAX,
    "four of 16, from 32": FINE,
}
INK = dict(zip(ENDS, ("#707070", *(PALETTE[n] for n in (0, 2, 3, 4, 5))), strict=True))
FINER = {
    "codes, six layers": (RECIPE, INK["mixture, four of 16"], "-"),
    "codes, seven layers": (FINE, INK["four of 16, from 32"], "-"),
    "Gaussians, seven layers": (TWINS[FINE], PALETTE[1], "--"),
}


def mean_gap(results: Path, run: str) -> float:
    """Mean of a run's `gaps`, bits per dim."""
    return float(np.mean(gaps(results, run)))


def gaps(results: Path, run: str) -> list[float]:
    """The test score of each seed of a run less that of the twin's same seed, bits per dim."""
    pairs = zip(scores_of(results, run), scores_of(results, TWINS[run]), strict=False)
    return [codes - gaussians for codes, gaussians in pairs]


def most_said(results: Path, run: str) -> list[float]:
    """For each seed of a run the bits a position of the layer that says most there."""
    return [max(stored(folder).position) for folder in seeds_of(results, run)]


def draw_training(results: Path) -> Figure:
    """Validation scores of seed 0 under both likelihoods, and how far codes are behind, by seed."""
    import matplotlib.pyplot as plt

    figure, (scores, behind) = plt.subplots(1, 2, figsize=(7.6, 3.4))
    for (likelihood, run), style in zip(RUNS.items(), ("--", "-"), strict=True):
        for words, name, colour in zip(
            ("codes", "Gaussians"), (run, TWINS[run]), PALETTE[:2], strict=True
        ):
            label = f"{words}, {likelihood}"
            scores.plot(*curve(results / name), style, color=colour, label=label)
        _draw_gaps(behind, results, run, INK[f"{likelihood}, one of 64"], likelihood)
    scores.set(xlabel="thousand images", ylabel="bits/dim, validation", ylim=(4.1, 5.6))
    behind.set(xlabel="thousand images", ylabel="codes less Gaussians, bits/dim", ylim=(0, 0.5))
    scores.legend(fontsize="small")
    behind.legend(fontsize="small", loc="upper left")
    return figure


def draw_ceiling(results: Path, bits: float = 6) -> Figure:
    """Bits a position of codes and Gaussians by layer, for both likelihoods.

    Args:
        results: the folder book/results.
        bits: what a code can say at most.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.2), sharey=True)
    for axis, (likelihood, run) in zip(axes, RUNS.items(), strict=True):
        pair = {"codes": (-0.17, run, PALETTE[0]), "Gaussians": (0.17, TWINS[run], PALETTE[1])}
        for label, (shift, name, colour) in pair.items():
            seeds = [stored(folder).position for folder in seeds_of(results, name)]
            layers = np.arange(1, len(seeds[0]) + 1) + shift
            axis.bar(layers, np.mean(seeds, 0), 0.34, color=colour, label=label)
            for values in seeds:
                axis.plot(layers, values, "k.", markersize=4)
        axis.axhline(bits, color="black", linestyle=":")
        axis.set(title=likelihood, xlabel="layer", xticks=range(1, 7))
    axes[0].set(ylabel="bits a position")
    axes[1].text(0.5, bits + 0.15, "a code of 64", fontsize="small")
    axes[1].legend(fontsize="small")
    return figure


def draw_layers(rows: Mapping[str, Sequence[float]]) -> Figure:
    """What each layer says, a bar for each model: label -> KLs in bits per dim, l = 1 first."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 2.8))
    for number, (label, kl) in enumerate(rows.items()):
        colour = ("#707070", PALETTE[0], PALETTE[1])[number]
        axis.bar(
            np.arange(1, len(kl) + 1) + 0.27 * (number - 1), kl, 0.27, label=label, color=colour
        )
    axis.set(xlabel="layer", ylabel="KL, bits/dim")
    axis.legend(fontsize="small")
    return figure


def draw_cells(codebooks: Sequence[Codebook]) -> Figure:
    """Codebooks of two numbers: their vectors, and the part of the plane nearest to each."""
    import matplotlib.pyplot as plt

    line = torch.linspace(-2.6, 2.6, 160)
    plane = torch.cartesian_prod(line, line)  # points (x, y)
    figure, axes = plt.subplots(1, len(codebooks), figsize=(6.4, 3.4), sharex=True, sharey=True)
    for axis, codebook in zip(axes, codebooks, strict=True):
        found, vectors = nearest_codes(codebook.split(plane), codebook.means), codebook.means
        K, title = codebook.codebook_size, f"one codebook of {codebook.codebook_size}"
        if codebook.groups == 2:
            found, title = K * found[:, 0] + found[:, 1], f"two codebooks of {K}"
            vectors = torch.cartesian_prod(*vectors.squeeze(-1))
        axis.imshow(
            found.view(160, 160).T.numpy(),
            origin="lower",
            extent=(-2.6, 2.6) * 2,
            cmap="tab20",
            alpha=0.55,
        )
        axis.plot(*vectors.detach().numpy().T, "k.")
        axis.set(aspect="equal", xlabel="first number")
        axis.set_title(title, loc="center")
        axis.grid(visible=False)
    axes[0].set_ylabel("second number")
    return figure


def draw_four(results: Path) -> Figure:
    """Gaps during training, each seed a line, and what layers say, seeds as points."""
    import matplotlib.pyplot as plt

    figure, (gap, said) = plt.subplots(1, 2, figsize=(7.8, 3.4))
    for label, run in STAGES.items():
        _draw_gaps(gap, results, run, INK[label], label)
    gap.set(xlabel="thousand images", ylabel="codes less Gaussians, bits/dim", ylim=(0, 0.62))
    gap.legend(fontsize="small", loc="upper left")
    bars = [(label, run, INK[label]) for label, run in STAGES.items() if run != LOGISTIC]
    bars.append(("mixture, Gaussians", TWINS[MIXTURE], PALETTE[1]))
    for number, (label, run, colour) in enumerate(bars):
        seeds = [stored(folder).position for folder in seeds_of(results, run)]
        layers = np.arange(1, len(seeds[0]) + 1) + 0.27 * (number - 1)
        name = label.removeprefix("mixture, ")
        said.bar(layers, np.mean(seeds, 0), 0.27, color=colour, label=name)
        for bits in seeds:
            said.plot(layers, bits, "k.", markersize=3)
    said.set(xlabel="layer", ylabel="bits a position", xticks=range(1, 7))
    said.legend(fontsize="small")
    return figure


def draw_estimators(results: Path) -> Figure:
    """How far four codebooks of 16 are behind Gaussians during training, by estimator; seed 0."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.0, 3.2))
    for label, run in (("straight-through", RECIPE), ("ReinMax", REINMAX)):
        ink = next(INK[name] for name, other in ENDS.items() if other == run)
        _draw_gaps(axis, results, run, ink, label)
    axis.set(xlabel="thousand images", ylabel="codes less Gaussians, bits/dim", ylim=(-0.05, 0.15))
    axis.axhline(0, color="black", linewidth=1)
    axis.legend(fontsize="small", loc="lower right")
    return figure


def draw_finer_course(results: Path) -> Figure:
    """Six and seven layers during training, less six layers of Gaussians; seed 0."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    for label, (run, ink, style) in FINER.items():
        behind = gap_curve(results / run, results / TWINS[RECIPE])
        axis.plot(*behind, style, color=ink, label=label)
    axis.set(xlabel="thousand images", ylabel="less six layers of Gaussians,\nbits/dim")
    axis.axhline(0, color="black", linewidth=1)
    axis.legend(fontsize="small")
    return figure


def draw_verdict(results: Path) -> Figure:
    """How far codes are behind Gaussians in five states of the case, seeds as points."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.6, 2.8))
    for row, (label, run) in enumerate(ENDS.items()):
        mean = mean_gap(results, run)
        seeds = gaps(results, run)
        ink, filled = INK[label], len(seeds) > 1  # one seed: an outline
        face = ink if filled else "white"
        axis.barh(row, mean, height=0.6, facecolor=face, edgecolor=ink, linewidth=2)
        axis.plot(seeds, [row] * len(seeds), "ko", markersize=4)
        axis.text(
            0.01,
            row,
            f"{mean:.2f}",
            va="center",
            color="white" if filled else "black",
            weight="bold",
        )
    axis.set(yticks=range(len(ENDS)), yticklabels=list(ENDS), xlim=(0, 0.5))
    axis.set_xlabel("codes less Gaussians, bits per dim")
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    return figure


def _draw_gaps(axis: Axes, results: Path, run: str, colour: str, label: str) -> None:
    """A line for each seed of codes less the same seed of Gaussians; further seeds are dotted."""
    pairs = zip(seeds_of(results, run), seeds_of(results, TWINS[run]), strict=False)
    for number, (folder, twin) in enumerate(pairs):
        seen, behind = gap_curve(folder, twin)
        style = ":" if number else "-"
        axis.plot(seen, behind, style, color=colour, label=None if number else label)
