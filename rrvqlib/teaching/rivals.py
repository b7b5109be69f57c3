"""What chapter 10 draws and measures of priors learnt afterwards, and of the stored rivals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from rrvqlib.models.from_settings import build
from rrvqlib.runs import read_run_settings
from rrvqlib.teaching.figures import PALETTE
from rrvqlib.teaching.records import results_of

if TYPE_CHECKING:
    import matplotlib.axes
    from matplotlib.figure import Figure

KINDS = ("one layer", "several layers", "second stage")
LABELS = {
    "rrvq-l4": "RRVQ, 4 layers",
    "spatial-l4": "Gaussians, 4 layers",
    "bits-l4": "bits, 4 layers",
    "bits-l1": "bits, 1 layer",
    "vq-vae-2": "VQ-VAE-2, 2 levels",
    "vqvae": "VQ-VAE",
    "straight-through": "relaxed VQ, straight-through",
    "gumbel-softmax": "relaxed VQ, soft samples",
    "sq-vae": "SQ-VAE",
    "rrvq-l1": "RRVQ, 1 layer",
    "leave-one-out": "leave-one-out, 8 samples",
    "vimco": "VIMCO, 8 samples",
    "vqvae-pixelcnn": "VQ-VAE, then PixelCNN",
    "vq-vae-2-pixelcnn": "VQ-VAE-2, then PixelCNNs",
    "hqa": "relaxed VQ, then HQA's layer",
    "straight-through-pixelcnn": "relaxed VQ, then PixelCNN",
}
# Second seeds of some of them, which stand among the cells of Table 1.
SECOND_SEEDS = {
    "rrvq-l4": "table-1-cifar10-rrvq-seed-1",
    "spatial-l4": "table-1-cifar10-spatial-seed-1",
    "straight-through": "table-1-cifar10-rvq-seed-1",
}


class Rival(NamedTuple):
    """A stored run of the small budget.

    Attributes:
        label: for readers.
        test, train: bits per dim.
        kl: the part of `test` that the codes cost.
        kind: one of `KINDS`.
        images_seen: in the run itself, without a first stage.
        wall_seconds: of training.
        bound: of 50 importance samples, bits per dim of the first 500 test images, if stored.
        again: `test` of a second seed, if there is one.
    """

    label: str
    test: float
    train: float
    kl: float
    kind: str
    images_seen: int
    wall_seconds: float
    bound: float | None
    again: float | None = None


def stored_rivals(results: Path, labels: Mapping[str, str] = LABELS) -> dict[str, Rival]:
    """The stored runs rival-NAME, best test score first.

    Args:
        results: the folder book/results.
        labels: for each NAME what readers see.
    """
    found = {}
    for name, label in labels.items():
        folder = results / f"rival-{name}"
        scores, run = (json.loads((folder / f"{f}.json").read_text()) for f in ("results", "run"))
        settings = read_run_settings(folder).model
        second = settings.second_stage.kind != "none"
        found[name] = Rival(
            label,
            scores["test_bits_per_dim"],
            scores["train_bits_per_dim"],
            sum(scores["kl_bits_per_dim"]),
            KINDS[2 if second else int(settings.layers > 1)],
            run["images_seen"],
            run["wall_seconds"],
            scores.get("iw_bits_per_dim"),
            results_of(results / SECOND_SEEDS[name])["test_bits_per_dim"]
            if name in SECOND_SEEDS
            else None,
        )
    return dict(sorted(found.items(), key=lambda item: item[1].test))


def draw_rivals(
    rivals: Mapping[str, Rival], start: float = 5.4, end: float | None = None
) -> Figure:
    """A bar for each rival: pixels given the codes in grey, then the KL in its kind's colour.

    Where there is a second seed, two points stand on the bar, for the scores of both.

    Args:
        rivals: as `stored_rivals` returns them.
        start: of the axis, bits per dim.
        end: of the axis; with it the legend goes below, and letters are larger.
    """
    import matplotlib.pyplot as plt

    size = (7.2, 0.275 * len(rivals) + 0.4) if end is None else (5.4, 0.3 * len(rivals) + 1.2)
    figure, axis = plt.subplots(figsize=size)
    letters = "small" if end is None else "medium"
    for row, rival in enumerate(rivals.values()):
        pixels = rival.test - rival.kl
        colour = PALETTE[KINDS.index(rival.kind)]
        axis.barh(row, pixels - start, left=start, color="#c8c8c8")
        axis.barh(row, rival.kl, left=pixels, color=colour)
        right = max(rival.test, rival.again or 0) + (0.01 if rival.again is None else 0.025)
        axis.text(right, row, f"{rival.test:.2f}", va="center", fontsize=letters)
        if rival.again is not None:
            axis.plot([rival.test, rival.again], [row, row], "k.", clip_on=False)
    axis.set(yticks=range(len(rivals)), yticklabels=[rival.label for rival in rivals.values()])
    axis.set(xlim=(start, end or 6.85), xlabel="bits per dim, CIFAR-10 test images")
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    parts = {"pixels given the latents": "#c8c8c8"}
    parts |= {f"latents, {kind}": colour for kind, colour in zip(KINDS, PALETTE, strict=False)}
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in parts.values()]
    if end is None:
        axis.legend(handles, list(parts), fontsize=letters, loc="upper right")
    else:
        figure.legend(handles, list(parts), loc="outside lower center", ncols=2, handlelength=1)
    return figure


def influence(network: Callable[[Tensor], Tensor], codes: Tensor, K: int) -> Tensor:
    """Which positions' predictions move when one code of a grid is changed.

    Args:
        network: codes (B, H, W) -> log-probabilities (B, H, W, K), in float64: sums over a batch
            are rounded, and a prediction has moved if it differs by more than that.
        codes: int64 (H, W), of which each is changed in turn.
        K: codes.

    Returns:
        bool, positions by positions. A row is a changed code, a column a prediction that moved.
    """
    positions = codes.numel()
    changed = codes.flatten().repeat(positions, 1)
    changed += torch.eye(positions, dtype=torch.long)
    with torch.no_grad():
        before = network(codes[None])
        after = network(changed.view(positions, *codes.shape) % K)
    return ((after - before).abs() > 1e-13).any(-1).flatten(1)


def draw_sight(axis: matplotlib.axes.Axes, moved: Tensor, position: int, side: int = 8) -> None:
    """What one position of a grid sees: earlier codes seen and unseen, itself, later ones.

    Args:
        axis: to draw on.
        moved: as `influence` returns it.
        position: row by row from 0.
        side: of the grid.
    """
    import matplotlib.pyplot as plt

    for place in range(side * side):
        colour, hatch = "#ececec", None  # later
        if place == position:
            colour = PALETTE[1]
        elif moved[place, position]:
            colour = PALETTE[5]
        elif place < position:
            colour, hatch = "white", "xxxx"
        corner = (place % side, place // side)
        cell = plt.Rectangle(corner, 0.9, 0.9, fc=colour, ec="#707070", lw=0.5, hatch=hatch)
        axis.add_patch(cell)
    axis.set(xlim=(-0.1, side), ylim=(side, -0.1), aspect="equal")
    axis.axis("off")


def draw_stages() -> Figure:
    """Four ways to give codes a prior: what is learnt in the first training, what afterwards."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(7.6, 3.6))
    first, second = PALETTE[0], PALETTE[1]
    pixels, lower, upper = 1.6, 5.2, 8.4  # heights
    titles = ("VQ-VAE,\nthen PixelCNN", "VQ-VAE-2,\nthen PixelCNNs", "HQA", "RRVQ")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlim=(1.5, 8.5), ylim=(0, 9.4), aspect="equal")
        axis.set_title(title, loc="center")
        axis.axis("off")
        _grid(axis, pixels, 2.8, 8, "#707070")
        _grid(axis, lower, 2.2, 4, first)
        _arrow(axis, (5, lower - 1.15), (5, pixels + 1.45), first)
    for axis, colour in zip(axes[1:], (first, second, first), strict=True):
        _grid(axis, upper, 1.6, 2, colour)
    for axis in (axes[1], axes[3]):  # whose decoders see both grids
        _arrow(axis, (5.9, upper), (6.45, pixels + 0.6), first, bend=-0.45)
    for axis, colour in zip(axes[1:], (second, second, first), strict=True):
        _arrow(axis, (5, upper - 0.85), (5, lower + 1.15), colour, dashed=colour == second)
    for axis, heights in ((axes[0], (lower,)), (axes[1], (lower, upper))):
        for height in heights:  # from code to code within a grid
            _arrow(axis, (3.8, height + 0.6), (3.8, height - 0.6), second, dashed=True, bend=0.9)
    axes[0].text(8.5, lower, "codes", ha="right", va="center", fontsize="small")
    axes[0].text(8.5, pixels, "pixels", ha="right", va="center", fontsize="small")
    lines = [plt.Line2D([], [], color=first), plt.Line2D([], [], color=second, ls="--")]
    words = ["learnt in the first training", "learnt afterwards, codes frozen"]
    figure.legend(lines, words, loc="outside lower center", ncols=2)
    return figure


def _grid(axis: matplotlib.axes.Axes, height: float, side: float, cells: int, colour: str) -> None:
    import matplotlib.pyplot as plt

    size = side / cells
    for n in range(cells * cells):
        corner = (5 - side / 2 + n % cells * size, height - side / 2 + n // cells * size)
        axis.add_patch(plt.Rectangle(corner, size, size, fc="white", ec=colour))


def _arrow(
    axis: matplotlib.axes.Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    *,
    dashed: bool = False,
    bend: float = 0.0,
) -> None:
    style = {"arrowstyle": "->", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    style |= {"ls": "--" if dashed else "-", "connectionstyle": f"arc3,rad={bend}"}
    axis.annotate("", end, start, arrowprops=style)


def cpu_seconds(f: Callable[[], object], repeats: int = 2) -> float:
    """The least processor time of some calls, on one thread, after one that warms up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    f()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        f()
        times.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return min(times)


def sampling_milliseconds(run: Path, batch: int = 16, repeats: int = 2) -> float:
    """Processor time for an image of a stored run's model, whose weights do not matter here.

    Args:
        run: its folder.
        batch: images drawn together.
        repeats: as in `cpu_seconds`.
    """
    model: nn.Module = build(read_run_settings(run).model).eval()
    return 1000 * cpu_seconds(lambda: model.sample(batch), repeats) / batch


def stored_samples(picture: Path, number: int, side: int = 32) -> Tensor:
    """The first samples of a run's samples.png, whose tiles stand two pixels apart.

    Args:
        picture: the file; eight tiles a row.
        number: how many, at most 64.
        side: of a sample.

    Returns:
        uint8 (number, 3, side, side).
    """
    import numpy as np
    from PIL import Image

    sheet = torch.from_numpy(np.array(Image.open(picture).convert("RGB"))).permute(2, 0, 1)
    step = side + 2
    corners = [(step * (n // 8), step * (n % 8)) for n in range(number)]
    return torch.stack([sheet[:, y : y + side, x : x + side] for y, x in corners])
