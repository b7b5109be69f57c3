"""Which change of the codes brings them closer to Gaussians: runs of three lengths, by suspect.

All under the mixture, with the settings of `cifar10-cpu-mixture`. Scores are of the same 500
validation images: the short runs (`gap-cifar10.jsonl`, by tools/sweep.py) never see test images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rrvqlib.teaching.figures import PALETTE
from rrvqlib.teaching.gap import FOUR, LOGISTIC, MIXTURE, STAGES, TWINS, mean_gap, most_said
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
OTHERS = {
    "1 of 64, ReinMax": Arm("recipe-mixture+reinmax"),
    "1 of 64, a layer at 32 × 32": Arm("recipe-mixture+at-32"),
}


def scores(results: Path, arm: Arm) -> dict[int, list[float]]:
    """Bits per dim of validation images, one number a seed: {images seen: scores}.

    Args:
        results: the folder book/results.
        arm: of `ARMS`, `OTHERS`, or `GAUSSIANS`.
    """
    found: dict[int, list[float]] = {}
    for line in map(json.loads, (results / FILE).read_text().splitlines()):
        if line["variant"] == arm.variant:
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


def suspects(results: Path) -> list[Suspect]:
    """Six suspects, what was tried and what was found, from the folder book/results."""
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
            f"one codebook or four, under the mixture; 224,000 images, {seeds} of four",
            f"gap {narrow:.2f}, then {rest:.2f}",
            "several codebooks close about two fifths of what was left; whether because a code can"
            " be partly right or because there are more vectors is not separated",
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
        Suspect("number of codes K", "not varied alone", "nothing", "open"),
    ]


def table(rows: Sequence[Suspect]) -> str:
    """The suspects as a table in MyST's Markdown, which a phone shows as a list."""
    lines = ["| suspect | what was varied, and how much | found | verdict |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["```{table}", ":class: stacked-on-a-phone", "", *lines, "```"])


def draw_vectors(results: Path, images: int) -> Figure:
    """Scores of codebooks after so many images, over the bits that a position can say.

    One line joins codebooks that stand alone, others those side by side.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    gaussian = np.mean(scores(results, GAUSSIANS)[images])
    for alone, colour, label in (
        (True, PALETTE[0], "one codebook"),
        (False, PALETTE[2], "several side by side"),
    ):
        chosen = {name: arm for name, arm in ARMS.items() if (arm.groups == 1) == alone}
        places = []
        for name, arm in chosen.items():
            found = scores(results, arm).get(images, [])
            axis.plot([arm.bits] * len(found), found, ".", color=colour, markersize=4)
            if found:
                places.append((arm.bits, np.mean(found), name))
        axis.plot(*np.array([p[:2] for p in sorted(places)]).T, "o", color=colour, label=label)
        for bits, mean, name in places:
            axis.annotate(name, (bits, mean), (5, 4), textcoords="offset points", fontsize="small")
    axis.axhline(gaussian, color=PALETTE[1], linestyle="--", label="Gaussians")
    axis.set(xlabel="bits that a position can say", ylabel="bits/dim, validation", xlim=(5, 27))
    axis.legend(fontsize="small")
    return figure


def draw_budgets(results: Path, arms: Mapping[str, Arm]) -> Figure:
    """How far arms are behind Gaussians, over the images that both have seen."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    for (label, arm), colour in zip(arms.items(), PALETTE, strict=False):
        found = behind(results, arm)
        axis.plot([n / 1000 for n in found], list(found.values()), "o-", color=colour, label=label)
    axis.set(xscale="log", xlabel="thousand images, each budget a run of its own")
    axis.set(xticks=(14.4, 56, 224), xticklabels=("14.4", "56", "224"), ylim=(0, None))
    axis.minorticks_off()
    axis.set_ylabel("codes less Gaussians, bits/dim")
    axis.legend(fontsize="small")
    return figure
