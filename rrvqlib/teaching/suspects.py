"""Why codes score worse than Gaussians: the suspects, and what stored runs say of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from rrvqlib.teaching import arms, gap
from rrvqlib.teaching.arms import ARMS, SLOW, behind, in_use
from rrvqlib.teaching.gap import FOUR, MIXTURE, RECIPE, STAGES, mean_gap, most_said
from rrvqlib.teaching.records import scores_of, variants

SEEDS = {1: "one seed", 2: "two seeds", 3: "three seeds"}


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


def suspects(results: Path) -> list[Suspect]:
    """Eight suspects, what was tried and what was found, from the folder book/results."""
    wide, narrow, rest = (mean_gap(results, run) for run in STAGES.values())
    seeds, small_seeds = (SEEDS[len(scores_of(results, run))] for run in (FOUR, RECIPE))
    base = variants(results / "ablation-cifar10.jsonl")["base"]
    draws = variants(results / "temperature-cifar10.jsonl")
    sweep = variants(results / "sweep-cifar10.jsonl")
    straight = draws["base"][0]
    soft = draws["soft-samples"][0] - straight
    cold = draws["soft-samples+temperature-0.5-to-0.1"][0] - straight
    grids = sweep["all-at-16"][0] - sweep["base"][0]
    said, much = max(most_said(results, MIXTURE)), max(most_said(results, FOUR))
    small = mean_gap(results, RECIPE)
    first = [gap.gaps(results, run)[0] for run in (MIXTURE, FOUR, RECIPE)]
    early = {name: mean(behind(results, arm)[56_000]) for name, arm in ARMS.items()}
    slow = {name: mean(behind(results, arm)[56_000]) for name, arm in SLOW.items()}
    reinmax = mean(behind(results, arms.REINMAX["4 of 16"])[56_000])
    late = mean_gap(results, gap.REINMAX)
    finer = {name: pair[1] for name, pair in arms.FINER.items()}
    fine = behind(results, finer["4 of 16"], finer["Gaussians"])[56_000][0]
    fine_late = mean_gap(results, gap.FINE)
    wider = mean(behind(results, arms.WIDE)[56_000])
    narrower = mean(behind(results, ARMS["4 of 16"], arms.NARROW)[56_000])
    used, slow_used = (100 * in_use(results, a, 56_000) for a in (ARMS["1 of 64"], SLOW["1 of 64"]))
    short = "14,400 images, logistic, one seed"
    return [
        Suspect(
            "likelihood",
            "logistic or mixture, each with its learning rate, for codes and Gaussians; 224,000"
            " images, two seeds",
            f"gap {wide:.2f}, then {narrow:.2f}",
            "about half of the gap goes with it",
        ),
        Suspect(
            "all or nothing",
            "as many vectors at once or in parts, 64 and 256 of them; 56,000 images, one seed",
            f"gap {early['1 of 64']:.2f} and {early['2 of 8']:.2f};"
            f" {early['1 of 256']:.2f} and {early['4 of 4']:.2f}",
            "open: at one learning rate for all, parts are ahead with 64 vectors; with 256, and"
            " beside a slower lone 64, two rows below, the differences are within what seeds do",
        ),
        Suspect(
            "number of vectors",
            "one codebook of 64 or 256, 56,000 images, one seed; one of 64, four of 64 and four of"
            f" 16, 224,000 images, {seeds} of four of 64 and {small_seeds} of four of 16",
            f"gap {early['1 of 64']:.2f} and {early['1 of 256']:.2f}; late, with the first seed,"
            f" {first[0]:.2f}, {first[1]:.2f} and {first[2]:.2f} (means of two: {narrow:.2f} and"
            f" {rest:.2f})",
            "among lone codebooks more vectors are better early; four small codebooks close about"
            " two fifths of the gap late",
        ),
        Suspect(
            "uneven use",
            "codebooks at a fifth of their learning rate, one of 64 and four of 16; 56,000 images,"
            " one seed",
            f"gap {early['1 of 64']:.2f} and {slow['1 of 64']:.2f}, perplexity / K {used:.0f} % and"
            f" {slow_used:.0f} %; gap {early['4 of 16']:.2f} and {slow['4 of 16']:.2f}",
            "fits, but not separated from the rate: a slower lone codebook uses its codes more"
            " evenly and closes a third of the gap, early",
        ),
        Suspect(
            "ceiling",
            "nothing; bits that a layer says at a position, on average, under the mixture",
            f"at most {said:.1f} of 6, and {much:.1f} of 24 with four codebooks",
            "no sign of it in averages; single positions not looked at",
        ),
        Suspect(
            "estimator",
            f"soft draws in place of straight-through; {short}. ReinMax at temperature 1, mixture,"
            " four of 16; 56,000 and 224,000 images, one seed",
            f"{soft:+.2f}; colder, {cold:+.2f}; seeds differ by {max(base) - min(base):.2f}."
            f" ReinMax: gap {early['4 of 16']:.2f} and {reinmax:.2f} early, {small:.2f} and"
            f" {late:.2f} late",
            "soft draws no effect beyond seeds; ReinMax is ahead of straight-through early and"
            " behind it late",
        ),
        Suspect(
            "resolution",
            f"all six grids at 16 × 16; {short}. A seventh layer at 32 × 32, mixture, four of"
            " 16; 56,000 and 224,000 images, one seed",
            f"score {grids:+.2f}; gap {early['4 of 16']:.2f} and {fine:.2f} early, {small:.2f} and"
            f" {fine_late:.2f} late",
            "coarse grids do no harm early in training; a finer one helps codes early and Gaussians"
            " late: better models, and no smaller gap at the end",
        ),
        Suspect(
            "size",
            "codes of 56 channels beside Gaussians of 48, codes of 48 beside Gaussians of 41: as"
            " many parameters; mixture, four of 16, 56,000 images, one seed",
            f"gap {early['4 of 16']:.2f}, with 56 channels {wider:.2f}, beside 41 {narrower:.2f}",
            "a part of the early gap, a third of it or more; not tried late",
        ),
    ]


def table(rows: Sequence[Suspect]) -> str:
    """The suspects as a table in MyST's Markdown, which a phone shows as a list."""
    lines = ["| suspect | what was varied, and how much | found | verdict |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["```{table}", ":class: stacked-on-a-phone", "", *lines, "```"])
