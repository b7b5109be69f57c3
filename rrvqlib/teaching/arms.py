"""Kinds of latents beside Gaussians, each trained for itself on several numbers of images.

The runs have the settings of `cifar10-cpu-mixture`, or of `cifar10-cpu` under the logistic. Scores
are of the same 500 validation images: short runs (`gap-cifar10.jsonl`, by tools/sweep.py) never see
test images.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rrvqlib.teaching import gap
from rrvqlib.teaching.figures import PALETTE
from rrvqlib.teaching.gap import FOUR, INK, LOGISTIC, MIXTURE, RECIPE, TWINS
from rrvqlib.teaching.records import course_of, seeds_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "gap-cifar10.jsonl"


class Arm(NamedTuple):
    """One kind of latents, trained for several budgets.

    Attributes:
        variant: its name in `FILE`.
        groups: codebooks at a position; 0, no codes.
        codes: in each of them.
        run: folder of its run of 224,000 images, where there is one.
    """

    variant: str
    groups: int = 1
    codes: int = 64
    run: str | None = None

    @property
    def bits(self) -> float:
        """What a position can say at most."""
        return self.groups * math.log2(self.codes)


GAUSSIANS = Arm("recipe-mixture+gaussian", groups=0, run=TWINS[MIXTURE])
ARMS = {
    "1 of 64": Arm("recipe-mixture", run=MIXTURE),
    "2 of 8": Arm("recipe-mixture+groups-2+codes-8", 2, 8),
    "1 of 256": Arm("recipe-mixture+codes-256", 1, 256),
    "4 of 4": Arm("recipe-mixture+groups-4+codes-4", 4, 4),
    "4 of 16": Arm("recipe-mixture+groups-4+codes-16", 4, 16, RECIPE),
    "8 of 8": Arm("recipe-mixture+groups-8+codes-8", 8, 8),
    "4 of 64": Arm("recipe-mixture+groups-4", 4, 64, FOUR),
}
BELOW = ("2 of 8", "1 of 256", "4 of 64")  # their names in the figure, where others are in the way

# Once more, at a fifth of the other codebooks' learning rate.
SLOW = {
    name: ARMS[name]._replace(variant=f"{ARMS[name].variant}+codebook-x1", run=None)
    for name in ("1 of 64", "4 of 16")
}
# At four times the other codebooks' learning rate.
FAST = Arm("recipe-mixture+groups-4+codes-16+codebook-x20", 4, 16)

REINMAX = {
    "1 of 64": Arm("recipe-mixture+reinmax"),
    "4 of 16": Arm("recipe-mixture+groups-4+codes-16+reinmax", 4, 16, gap.REINMAX),
}
WARM = Arm("recipe-mixture+groups-4+codes-16+temperature-1", 4, 16)  # ReinMax has it, too

# Codes with as many parameters as Gaussians of 48 channels, and the other way round.
WIDE = Arm("recipe-mixture+groups-4+codes-16+channels-56", 4, 16)
NARROW = Arm("recipe-mixture+gaussian+channels-41", groups=0)

# A seventh layer that is no finer than the others.
SEVEN_AT_16 = Arm("recipe-mixture+groups-4+codes-16+seven-at-16", 4, 16)

# As they are, and with one layer more, of a position for each pixel.
FINER = {
    name: (arm, arm._replace(variant=f"{arm.variant}+at-32", run=run))
    for name, arm, run in (
        ("4 of 16", ARMS["4 of 16"], gap.FINE),
        ("4 of 16, ReinMax", REINMAX["4 of 16"], None),
        ("Gaussians", GAUSSIANS, TWINS[gap.FINE]),
    )
}

# Codes beside their Gaussian twins under both likelihoods.
LINES = {
    "logistic, one of 64": (
        Arm("recipe-logistic", run=LOGISTIC),
        Arm("recipe-logistic+gaussian", groups=0, run=TWINS[LOGISTIC]),
    ),
    "mixture, one of 64": (ARMS["1 of 64"], GAUSSIANS),
    "mixture, four of 64": (ARMS["4 of 64"], GAUSSIANS),
    "mixture, four of 16": (ARMS["4 of 16"], GAUSSIANS),
    "four of 16, ReinMax": (REINMAX["4 of 16"], GAUSSIANS),
    "four of 16, from 32": (FINER["4 of 16"][1], FINER["Gaussians"][1]),
}


def short_runs(results: Path, arm: Arm) -> list[dict[str, Any]]:
    """The lines of `FILE` that are of an arm, by seed."""
    lines = map(json.loads, (results / FILE).read_text().splitlines())
    found = (line for line in lines if line["variant"] == arm.variant)
    return sorted(found, key=lambda line: line["seed"])


def scores(results: Path, arm: Arm) -> dict[int, list[float]]:
    """Bits per dim of validation images, one number a seed: {images seen: scores}.

    Args:
        results: the folder book/results.
        arm: of `ARMS`, or another that `FILE` has.
    """
    found: dict[int, list[float]] = {}
    for line in short_runs(results, arm):
        found.setdefault(line["images_seen"], []).append(line["valid_bits_per_dim"])
    for folder in seeds_of(results, arm.run) if arm.run else ():
        course = course_of(folder)
        found.setdefault(int(course.images[-1]), []).append(course.score[-1].item())
    return dict(sorted(found.items()))


def behind(results: Path, arm: Arm, twin: Arm = GAUSSIANS) -> dict[int, list[float]]:
    """How far an arm is behind its Gaussian twin on the same budget, bits per dim.

    Args:
        results: the folder book/results.
        arm: of `ARMS`, or another that `FILE` has.
        twin: Gaussians that differ from it in nothing else.

    Returns:
        Images seen -> the differences of as many seeds, from 0 on, as both have had.
    """
    gaussians = scores(results, twin)
    return {
        images: [codes - twins for codes, twins in zip(found, gaussians[images], strict=False)]
        for images, found in scores(results, arm).items()
        if images in gaussians
    }


def in_use(results: Path, arm: Arm, images: int) -> float:
    """Perplexity of an arm's codes as a share of K, mean over layers and seeds; 1, all alike."""
    rows = [x["perplexity"] for x in short_runs(results, arm) if x["images_seen"] == images]
    return float(np.mean(rows)) / arm.codes


def draw_vectors(results: Path, images: int) -> Figure:
    """Scores of codebooks after so many images, and how evenly their codes are used.

    Both over the bits that a position can say; points are means over seeds.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.4))
    for name, arm in ARMS.items():
        values = np.mean(scores(results, arm)[images]), in_use(results, arm, images)
        colour = PALETTE[0] if arm.groups == 1 else PALETTE[2]
        offset = (5, -12 if name in BELOW else 5)
        for axis, value in zip(axes, values, strict=True):
            axis.plot(arm.bits, value, "o", color=colour)
            axis.annotate(
                name, (arm.bits, value), offset, textcoords="offset points", fontsize="small"
            )
    axes[0].plot([], [], "o", color=PALETTE[0], label="one codebook")
    axes[0].plot([], [], "o", color=PALETTE[2], label="several side by side")
    gaussians = np.mean(scores(results, GAUSSIANS)[images])
    axes[0].axhline(gaussians, color=PALETTE[1], linestyle="--", label="Gaussians")
    axes[0].set(ylabel="bits/dim, validation")
    axes[0].legend(fontsize="small", loc="upper right")
    axes[1].set(ylabel="perplexity / K", ylim=(0, 1.12))
    for axis in axes:
        axis.set(xlabel="bits that a position can say", xlim=(4, 29), xticks=range(6, 25, 6))
    return figure


def draw_finer(results: Path, images: int) -> Figure:
    """What a layer with a position for each pixel does to codes and Gaussians."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.4, 3.2))
    inks = INK["mixture, four of 16"], INK["four of 16, ReinMax"], PALETTE[1]
    for (name, pair), ink in zip(FINER.items(), inks, strict=True):
        means = [float(np.mean(scores(results, arm)[images])) for arm in pair]
        axis.plot([0, 1], means, "o-", color=ink)
        axis.text(1.04, means[1], name, color=ink, va="center")
    axis.set_xticks(
        [0, 1], ["six layers,\nfinest grid 16 × 16", "seven layers,\nfinest grid 32 × 32"]
    )
    axis.set(xlim=(-0.2, 1.6), ylabel="bits/dim, validation")
    return figure


def draw_budgets(results: Path) -> Figure:
    """How far codes are behind Gaussians by the images that both have seen.

    Lines join first seeds, points are further ones, each less the same seed of Gaussians.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for (label, (arm, twin)), marker in zip(LINES.items(), "sov^DP", strict=True):
        found = behind(results, arm, twin)
        first = [seeds[0] for seeds in found.values()]
        axis.plot(list(found), first, f"{marker}-", color=INK[label], label=label)
        for images, (_, *others) in found.items():
            axis.plot([images] * len(others), others, ".", color=INK[label])
    images = sorted({n for arm, twin in LINES.values() for n in behind(results, arm, twin)})
    axis.set(xscale="log", ylim=(-0.08, None), ylabel="codes less Gaussians, bits/dim")
    axis.axhline(0, color="black", linewidth=1)
    axis.set_xticks(images, [f"{n / 1000:g}" for n in images])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="thousand images, a training each")
    axis.legend(fontsize="small", loc="upper left")
    return figure
