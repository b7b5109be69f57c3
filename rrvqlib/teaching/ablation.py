"""The four cells of the paper's ablation: stored runs, intervals, and what chapter 8 draws."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from rrvqlib.latents.base import channels_last
from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.divergences import categorical_kl
from rrvqlib.latents.relaxed import RelaxedLatent
from rrvqlib.latents.responsibilities import log_responsibilities
from rrvqlib.likelihoods.base import pixels_to_reals
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.teaching.paper_tables import TABLE_G1

if TYPE_CHECKING:
    import matplotlib.axes
    from matplotlib.figure import Figure

CELLS = {
    "direct, σ = 1": {"prior": "direct", "covariance": "fixed"},
    "embedding, σ = 1": {"prior": "embedding", "covariance": "fixed"},
    "direct, σ learnt": {"prior": "direct", "covariance": "isotropic"},
    "RRVQ": {"prior": "embedding", "covariance": "isotropic"},
}
# Blue: variances of 1; orange: learnt. Pale circles: one of the two is changed.
COLOURS = dict(zip(CELLS, ("#0072B2", "#56B4E9", "#E69F00", "#D55E00"), strict=True))
COVARIANCES = {"as_printed": "RRVQ, s as printed", "diagonal": "RRVQ, s diagonal"}
CELL_PARTS = {"base", "fixed", "direct", "direct-fixed", "as-printed", "diagonal"}


class SweepRun(NamedTuple):
    """A line that `tools/sweep.py` wrote.

    Attributes:
        cell: a key of `CELLS`, or of two more covariances.
        recipe: what else was changed, as the tool names it; empty for its base.
        seed: of the run.
        record: the line.
    """

    cell: str
    recipe: str
    seed: int
    record: dict[str, Any]


def sweep_runs(file: Path) -> list[SweepRun]:
    """The runs of one file of JSON lines, by seed."""
    found = []
    for record in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        changes = {"prior": "embedding", "covariance": "isotropic"} | record["changes"]
        settings = {name: changes[name] for name in ("prior", "covariance")}
        names = [name for name, cell in CELLS.items() if cell == settings]
        cell = names[0] if names else COVARIANCES[settings["covariance"]]
        recipe = [part for part in record["variant"].split("+") if part not in CELL_PARTS]
        found.append(SweepRun(cell, "+".join(recipe), record["seed"], record))
    return sorted(found, key=lambda run: run.seed)


def by_cell(
    runs: Sequence[SweepRun], recipe: str | None = None, key: str = "valid_bits_per_dim"
) -> dict[str, Tensor]:
    """One number of each run, for each cell the S numbers of its seeds.

    Args:
        runs: as `sweep_runs` returns them.
        recipe: only the runs of this recipe; None for all.
        key: what to take of the record.
    """
    found: dict[str, list[float]] = {name: [] for name in (*CELLS, *COVARIANCES.values())}
    for run in runs:
        if recipe in (None, run.recipe):
            found[run.cell].append(run.record[key])
    return {cell: torch.tensor(numbers) for cell, numbers in found.items() if numbers}


def contrasts(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the two settings do, seed by seed: cell -> (S,) becomes effect -> (S,), bits per dim."""
    neither, prior, variances, both = (scores[cell] for cell in CELLS)
    return {
        "variances, beside embedding": both - prior,
        "embedding, beside variances": both - variances,
        "both": both - neither,
        "interaction": both - prior - variances + neither,
    }


def interval(differences: Tensor, level: float = 0.95) -> tuple[float, float, float]:
    """The mean of S differences (S,), and the ends of its interval by Student's t."""
    from scipy import stats

    S = len(differences)
    t = stats.t.ppf((1 + level) / 2, S - 1)
    mean = differences.mean().item()
    half = float(t) * differences.std().item() / math.sqrt(S)
    return mean, mean - half, mean + half


def kl_and_gradient(model: HierarchicalVAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """How far prior and posterior lie apart at each latent variable, and how hard that pulls.

    Args:
        model: trained; its latents are relaxed. Its codes are drawn once.
        images: uint8 (B, 3, S, S).

    Returns:
        Two (N,), over all layers and positions of all images. The KL in nats, and the length of its
        gradient with respect to what the network puts out for the prior there.
    """
    with torch.no_grad():
        features = model.encoder(pixels_to_reals(images))
        state = model.decoder.top(len(images))
    kls, lengths = [], []
    for layer, feature in zip(reversed(model.layers), reversed(features), strict=True):
        latent = cast(RelaxedLatent, layer.latent)
        with torch.no_grad():
            posterior = layer.posterior(feature, state)
            log_q = latent.log_posterior(posterior)
        prior = layer.prior(state).detach().requires_grad_()
        kl = categorical_kl(log_q, latent.log_prior(prior)).sum(-1)
        (gradient,) = torch.autograd.grad(kl.sum(), prior)
        kls.append(kl.detach().flatten())
        lengths.append(channels_last(gradient).norm(dim=-1).flatten())
        with torch.no_grad():
            state = layer.decode(state, latent.draw(posterior, prior, None).vectors)
    return torch.cat(kls), torch.cat(lengths)


def draw_table() -> Figure:
    """Table G.1: a bar from the training score to the test score of each cell."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.4), sharey=True)
    for axis, (dataset, table) in zip(axes, TABLE_G1.items(), strict=True):
        for row, cell in enumerate(CELLS):
            if cell not in table:
                axis.text(3.21, row, "unstable", va="center", style="italic", color="#505050")
                continue
            axis.plot(table[cell], (row, row), color=COLOURS[cell], linewidth=5, alpha=0.35)
            for score, fill in zip(table[cell], ("white", COLOURS[cell]), strict=True):
                axis.plot(score, row, "o", color=COLOURS[cell], markerfacecolor=fill, markersize=8)
        axis.set(title=dataset, xlabel="bits per dim")
    axes[0].set(yticks=range(len(CELLS)), yticklabels=list(CELLS), ylim=(3.5, -0.5))
    grey = {"marker": "o", "linestyle": "", "color": "#505050", "markersize": 8}
    handles = [plt.Line2D([], [], **grey, markerfacecolor=fill) for fill in ("white", "#505050")]
    words = ["training images", "test images"]
    figure.legend(handles, words, loc="outside upper right", ncols=2, fontsize="small")
    return figure


def draw_cells(
    axis: matplotlib.axes.Axes,
    rows: Mapping[str, Mapping[str, Tensor]],
    *,
    legend: bool = True,
) -> None:
    """Rows of scores: in each a line for each cell, a dot for each seed and a bar for the mean.

    Args:
        axis: to draw on.
        rows: title -> cell -> (S,), bits per dim.
        legend: whether to name the colours, above the axis.
    """
    labelled: set[str] = set()
    for row, grid in enumerate(rows.values()):
        for number, (cell, scores) in enumerate(grid.items()):
            y = row + 0.2 * (number - (len(grid) - 1) / 2)
            marker = "s" if cell.startswith("direct") else "o"
            label = "" if cell in labelled else cell
            axis.plot(
                scores, [y] * len(scores), marker, color=COLOURS[cell], alpha=0.75, label=label
            )
            labelled.add(cell)
            if len(scores) > 1:
                axis.plot(scores.mean(), y, "|", color=COLOURS[cell], ms=14, mew=2)
    for row in range(1, len(rows)):
        axis.axhline(row - 0.5, color="#c8c8c8", linewidth=0.8)
    axis.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.5, -0.5))
    axis.grid(visible=False, axis="y")
    if legend:
        axis.legend(
            loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2, fontsize="small", columnspacing=1
        )


class Moved(NamedTuple):
    """Codes in the plane, before or after they have moved.

    Attributes:
        means: (K, 2), the codes.
        posterior: (K,), probabilities, of a feature that stays where it is.
        embedding: (K,), of a prior that is a place, near the feature.
        direct: (K,), of a prior that is a list of logits.
    """

    means: Tensor
    posterior: Tensor
    embedding: Tensor
    direct: Tensor


FEATURE, PLACE = (1.0, 0.4), (0.6, 0.9)  # the encoder's, and what the layers above make of it


def moving_codes() -> tuple[Moved, Moved]:
    """Six codes on a ring, and the same turned by a third of a turn: what two priors then say."""
    angles = torch.arange(6) * (2 * math.pi / 6)
    points = torch.tensor([FEATURE, PLACE])
    found, logits = [], None
    for turn in (0.0, 2 * math.pi / 3):
        ring = 1.8 * torch.stack([(angles + turn).cos(), (angles + turn).sin()], dim=1)
        codebook = Codebook(6, 2, "fixed")
        codebook.means.data.copy_(ring)
        log_p = log_responsibilities(points, codebook).detach()
        logits = log_p[1] if logits is None else logits
        found.append(Moved(ring, log_p[0].exp(), log_p[1].exp(), logits.exp()))
    return found[0], found[1]


def draw_moving_codes(states: Sequence[Moved]) -> Figure:
    """A row for each state: the plane, then three bar charts over the codes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(7.6, 3.9), width_ratios=(1.25, 1, 1, 1))
    for row, (line, state) in enumerate(zip(axes, states, strict=True)):
        plane = line[0]
        for k, (x, y) in enumerate(state.means.tolist()):
            plane.plot(x, y, "o", color="#d0d0d0", markersize=15)
            plane.text(x, y, str(k + 1), ha="center", va="center")
        plane.plot(*FEATURE, "x", color="#000000", markersize=8, markeredgewidth=2)
        plane.plot(*PLACE, "+", color=COLOURS["RRVQ"], markersize=11, markeredgewidth=2)
        plane.set(xlim=(-2.3, 2.3), ylim=(-2.3, 2.3), aspect="equal", xticks=[], yticks=[])
        plane.set_ylabel(("before", "after")[row])
        bars = {
            "posterior ×": (state.posterior, "#000000"),
            "prior, a place +": (state.embedding, COLOURS["RRVQ"]),
            "prior, a list": (state.direct, COLOURS["direct, σ = 1"]),
        }
        for axis, (title, (p, colour)) in zip(line[1:], bars.items(), strict=True):
            axis.bar(range(1, 7), p.tolist(), color=colour)
            axis.set(ylim=(0, 0.75), xticks=range(1, 7))
            axis.grid(visible=False, axis="x")
            if axis is not line[1]:
                axis.set_yticklabels([])
            if row == 0:
                axis.set_title(title, fontsize="small", loc="center")
    axes[0, 0].set_title("codes 1 to 6", fontsize="small", loc="center")
    return figure
