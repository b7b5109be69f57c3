"""A GPU that waits, and the runs of 32 layers: stored measurements, and their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rrvqlib.teaching.depth_figures import draw_kl
from rrvqlib.teaching.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class StepTime(NamedTuple):
    """A training step as it was timed on a GPU.

    Attributes:
        batch: images a step.
        recorded: whether its launches were replayed as one CUDA graph.
        together: whether the weights of all layers were prepared together, as they are now.
        milliseconds: that a step took.
    """

    batch: int
    recorded: bool
    together: bool
    milliseconds: float


def step_times(record: Path) -> list[StepTime]:
    """The steps that a sitting timed, without compiled layers and other layouts of weights."""
    measured = json.loads(record.read_text(encoding="utf-8"))["images_per_second"]
    found = []
    for way, lines in measured.items():
        for line in lines:
            if not line["compiled"] and not line["weights_channels_last"]:
                spent = 1000 * line["batch_size"] / line["images_per_second"]
                together = way == "all layers prepared together"
                found.append(StepTime(line["batch_size"], line["recorded"], together, spent))
    return sorted(found, key=lambda step: (step.recorded, step.together, step.batch))


def draw_waiting() -> Figure:
    """A drawing, not a measurement: launches and work of a few operations, three ways."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(6.4, 4.6), sharex=True, gridspec_kw={"hspace": 0.16})
    # Title, when an operation is launched, how long one launch and one operation take.
    rows = (
        ("small batch: the GPU waits for each launch", 1.0, 0.25),
        ("twice the batch: hardly longer", 1.0, 0.5),
        ("recorded: launched once, then no waiting", 0.0, 0.25),
    )
    for axis, (title, launch, work) in zip(axes, rows, strict=True):
        end = 0.0
        for n in range(8):
            start = max(end, (n + 1) * launch) if launch else max(end, 1.0)
            if launch:
                axis.barh(1, 0.92, left=n * launch, color=PALETTE[4], height=0.62)
            axis.barh(0, 0.92 * work, left=start, color=PALETTE[0], height=0.62)
            end = start + work
        if not launch:
            axis.barh(1, 0.92, left=0, color=PALETTE[4], height=0.62)
        axis.set_title(title, pad=2)
        axis.set_yticks([0, 1], ["GPU works", "CPU launches"])
        axis.set(xlim=(0, 8.8), ylim=(-0.5, 1.5), xticks=[])
        axis.grid(visible=False)
        axis.axvline(end, color="black", linewidth=1, linestyle=":")
    axes[-1].set_xlabel("time; the dotted line is the end of eight operations")
    return figure


def draw_step_times(times: Sequence[StepTime]) -> Figure:
    """Milliseconds of a step as bars, one group a way of running it."""
    import matplotlib.pyplot as plt

    labels = {
        (False, False): "one by one",
        (False, True): "one by one,\nprepared together",
        (True, False): "recorded",
        (True, True): "recorded,\nprepared together",
    }
    batches = sorted({step.batch for step in times})
    figure, axis = plt.subplots(figsize=(6.8, 3.6))
    place, ticks = 0.0, []
    for way, label in labels.items():
        steps = [step for step in times if (step.recorded, step.together) == way]
        for step in steps:
            colour = PALETTE[batches.index(step.batch)]
            axis.bar(place, step.milliseconds, color=colour, width=0.9)
            axis.text(place, step.milliseconds + 5, f"{step.milliseconds:.0f}", ha="center")
            place += 1
        ticks.append((place - (len(steps) + 1) / 2, label))
        place += 0.8
    axis.set_xticks(*zip(*ticks, strict=True))
    for n, batch in enumerate(batches):
        axis.bar(0, 0, color=PALETTE[n], label=f"{batch} images a step")
    axis.set(ylabel="milliseconds a step", ylim=(0, 345))
    axis.grid(visible=False, axis="x")
    axis.legend(fontsize="small")
    return figure


def draw_run(metrics: Sequence[Mapping[str, Any]], kl: Sequence[float]) -> Figure:
    """The validation score over seconds, and the KL of 32 layers and of a code in each.

    Args:
        metrics: evaluations, with seconds and a score.
        kl: l = 1 first, bits/dim.
    """
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7.4, 5.6))
    grid = figure.add_gridspec(2, 2)
    left: Axes = figure.add_subplot(grid[0, :])
    axes = [figure.add_subplot(grid[1, n]) for n in (0, 1)]
    seconds, scores = zip(*((m["seconds"], m["valid_bits_per_dim"]) for m in metrics), strict=True)
    left.plot(seconds, scores, "o-", markersize=3)
    left.set(xlabel="seconds", title="validation, bits per dim")
    draw_kl(axes, kl)
    axes[1].legend(fontsize="small", ncols=2)
    return figure


def draw_scores(paper: Mapping[str, float], ours: Mapping[str, float]) -> Figure:
    """Test scores of two tables on one axis, best at the top, in bits/dim."""
    import matplotlib.pyplot as plt

    rows = [(score, name, True) for name, score in paper.items()]
    rows += [(score, name, False) for name, score in ours.items()]
    rows.sort(reverse=True)
    figure, axis = plt.subplots(figsize=(6.8, 0.34 * len(rows) + 0.9))
    for y, (score, _, is_paper) in enumerate(rows):
        colour = PALETTE[1] if is_paper else PALETTE[0]
        axis.plot(score, y, "s" if is_paper else "o", color=colour, markersize=7)
        axis.text(score + 0.05, y, f"{score:.2f}", va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [name for _, name, _ in rows])
    for label, is_paper in (("Table 1 of the paper", True), ("this book", False)):
        colour = PALETTE[1] if is_paper else PALETTE[0]
        axis.plot([], [], "s" if is_paper else "o", color=colour, label=label)
    axis.set(xlim=(3.4, 6), xlabel="bits per dim, CIFAR-10 test images")
    axis.grid(visible=True, axis="y", linestyle=":")  # from a name to its dot
    axis.legend(loc="upper right", fontsize="small")
    return figure
