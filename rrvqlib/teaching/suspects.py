"""Why codes score worse than Gaussians: the suspects, and short runs that question three of them.

The runs are under the mixture, with the settings of `cifar10-cpu-mixture`. Scores are of the same
500 validation images: short runs (`gap-cifar10.jsonl`, by tools/sweep.py) never see test images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rrvqlib.teaching.figures import PALETTE
from rrvqlib.teaching.gap import FOUR, MIXTURE, STAGES, TWINS, mean_gap, most_said
from rrvqlib.teaching.records import course_of, scores_of, seeds_of, variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "gap-cifar10.jsonl"


class Suspect(NamedTuple):
    """A possible reason why codes score worse than Gaussians.

    Attributes:
        name: of the suspect.
        test: what was varied, what was held, on how much data and how many seeds.
        found: numbers of stored runs.
        verdict: what they say.
    """

    name: str
    test: str
    found: str
    verdict: str


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
    "4 of 16": Arm("recipe-mixture+groups-4+codes-16", 4, 16),
    "8 of 8": Arm("recipe-mixture+groups-8+codes-8", 8, 8),
    "4 of 64": Arm("recipe-mixture+groups-4", 4, 64, FOUR),
}

# One codebook of 64 once more, at a fifth of the other codebooks' learning rate.
SLOW = Arm("recipe-mixture+codebook-x1")
BELOW = ("2 of 8", "1 of 256", "4 of 64")  # their names in the figure, where others are in the way


def short_runs(results: Path, arm: Arm) -> list[dict[str, Any]]:
    """The lines of `FILE` that are of an arm."""
    lines = map(json.loads, (results / FILE).read_text().splitlines())
    return [line for line in lines if line["variant"] == arm.variant]


def scores(results: Path, arm: Arm) -> dict[int, list[float]]:
    """Bits per dim of validation images, one number a seed: {images seen: scores}.

    Args:
        results: the folder book/results.
        arm: of `ARMS`, `SLOW` or `GAUSSIANS`.
    """
    found: dict[int, list[float]] = {}
    for line in short_runs(results, arm):
        found.setdefault(line["images_seen"], []).append(line["valid_bits_per_dim"])
    for folder in seeds_of(results, arm.run) if arm.run else ():
        course = course_of(folder)
        found.setdefault(int(course.images[-1]), []).append(course.score[-1].item())
    return dict(sorted(found.items()))


def behind(results: Path, arm: Arm) -> dict[int, float]:
    """How far an arm's mean is behind that of Gaussians on the same budget, bits per dim."""
    gaussians = scores(results, GAUSSIANS)
    return {
        images: float(np.mean(found) - np.mean(gaussians[images]))
        for images, found in scores(results, arm).items()
        if images in gaussians
    }


def in_use(results: Path, arm: Arm, images: int) -> float:
    """Perplexity of an arm's codes as a share of K, mean over layers and seeds; 1, all alike."""
    rows = [x["perplexity"] for x in short_runs(results, arm) if x["images_seen"] == images]
    return float(np.mean(rows)) / arm.codes


def suspects(results: Path) -> list[Suspect]:
    """Seven suspects, what was tried and what was found, from the folder book/results."""
    wide, narrow, rest = (mean_gap(results, run) for run in STAGES.values())
    number = len(scores_of(results, FOUR))
    seeds = {1: "one seed", 2: "two seeds"}.get(number, f"{number} seeds")
    base = variants(results / "ablation-cifar10.jsonl")["base"]
    draws = variants(results / "temperature-cifar10.jsonl")
    sweep = variants(results / "sweep-cifar10.jsonl")
    straight = draws["base"][0]
    soft = draws["soft-samples"][0] - straight
    cold = draws["soft-samples+temperature-0.5-to-0.1"][0] - straight
    grids = sweep["all-at-16"][0] - sweep["base"][0]
    said, much = max(most_said(results, MIXTURE)), max(most_said(results, FOUR))
    early = {name: behind(results, arm)[56_000] for name, arm in ARMS.items()}
    slow = behind(results, SLOW)[56_000]
    used, slow_used = (100 * in_use(results, a, 56_000) for a in (ARMS["1 of 64"], SLOW))
    short = "14,400 images, logistic, one seed"
    return [
        Suspect(
            "likelihood",
            "logistic or mixture, each with its bins and learning rate, for codes and Gaussians;"
            " 224,000 images, two seeds",
            f"gap {wide:.2f}, then {narrow:.2f}",
            "about half of the gap goes with it",
        ),
        Suspect(
            "all or nothing",
            "as many vectors at once or in parts, 64 and 256 of them; 56,000 images, one seed",
            f"gap {early['1 of 64']:.2f} and {early['2 of 8']:.2f};"
            f" {early['1 of 256']:.2f} and {early['4 of 4']:.2f}",
            "parts help 64 vectors and harm 256: no gain in themselves",
        ),
        Suspect(
            "number of vectors",
            "one codebook of 64 or 256, 56,000 images, one seed; one of 64 or four, 224,000 images,"
            f" {seeds} of four",
            f"gap {early['1 of 64']:.2f} and {early['1 of 256']:.2f}; gap {narrow:.2f} and"
            f" {rest:.2f}",
            "more vectors close three fifths of the gap early and two fifths late; beyond 256"
            " no more, early",
        ),
        Suspect(
            "idle codes",
            "one codebook of 64 at a fifth of its learning rate; 56,000 images, one seed",
            f"gap {early['1 of 64']:.2f} and {slow:.2f}; codes in use {used:.0f} % and"
            f" {slow_used:.0f} %",
            "in it: a slower codebook uses more of its codes and closes a third of the gap, early;"
            " long runs not tried",
        ),
        Suspect(
            "ceiling",
            "nothing; bits that a layer says at a position, on average, under the mixture",
            f"at most {said:.1f} of 6, and {much:.1f} of 24 with four codebooks",
            "no sign of it in averages; single positions not looked at",
        ),
        Suspect(
            "estimator",
            f"soft draws in place of straight-through; {short}",
            f"{soft:+.2f}; colder, {cold:+.2f}; seeds differ by {max(base) - min(base):.2f}",
            "no effect beyond seeds; long runs and an exact gradient not tried",
        ),
        Suspect(
            "resolution",
            f"all six grids at 16 × 16; {short}",
            f"{grids:+.2f}",
            "coarse grids do no harm early in training; finer ones than 16 × 16 not tried",
        ),
    ]


def table(rows: Sequence[Suspect]) -> str:
    """The suspects as a table in MyST's Markdown, which a phone shows as a list."""
    lines = ["| suspect | what was varied, and how much | found | verdict |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["```{table}", ":class: stacked-on-a-phone", "", *lines, "```"])


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
    axes[1].set(ylabel="perplexity, share of K", ylim=(0, 1.12))
    for axis in axes:
        axis.set(xlabel="bits that a position can say", xlim=(4, 29), xticks=range(6, 25, 6))
    return figure
