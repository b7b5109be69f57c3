"""Short runs that choose a recipe, by their score on validation images alone.

python tools/sweep.py --dataset npz:PATH --out book/results/sweep-cifar10.jsonl NAME [NAME ...]

Appends one line for each variant named: its score, what differs from the base, what it cost.
Variants join with a plus, as in codebook-x1+direct. Every one sees the same number of images, but
for twice-as-long and with --steps or --seconds; no test image is touched.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from rrvqlib import cli, data
from rrvqlib.files import check_writable
from rrvqlib.objectives.elbo import bits_per_dim
from rrvqlib.optimisation.trainer import Trainer
from rrvqlib.runs import RUNS
from rrvqlib.runs.records import hardware, versions
from rrvqlib.runs.scoring import seeded
from rrvqlib.settings import RunSettings, changed, flattened, parse_sides

BASE = changed(
    RunSettings(),
    pyramid=parse_sides("16*4,8,4"),
    codebook_size=(64,),
    channels=48,
    decoder_input="concat",
    batch_size=32,
    steps=450,
    eval_every=450,
    lr_warmup=25,
)

# The model of Table G.1 (16x16 to 1x1, K = 256, D = 128, four blocks between latents and in every
# ladder and strap); the paper does not give its width.
TABLE_G1 = {
    name: value
    for name, value in flattened(RUNS["cifar10-l5-rrvq"].settings.model).items()
    if value != flattened(BASE)[name]
} | {"channels": 32}


def recipe(run: str) -> dict:
    """What a named run sets otherwise than the base, but for data and numbers of steps."""
    own, base = flattened(RUNS[run].settings), flattened(BASE)
    budget = {"dataset", "steps", "eval_every", "save_every", "iw_images"}
    return {k: v for k, v in own.items() if v != base.get(k) and k not in budget}


VARIANTS: dict[str, dict] = {
    "base": {},
    "recipe-logistic": recipe("cifar10-cpu"),
    # With one codebook of 64, from which the recipe's four of 16 came.
    "recipe-mixture": recipe("cifar10-cpu-mixture") | {"groups": 1, "codebook_size": (64,)},
    "l5": TABLE_G1,
    "channels-64": {"channels": 64},
    "channels-41": {"channels": 41},  # Gaussians with as many parameters as codes of 48
    "channels-56": {"channels": 56},  # codes with as many parameters as Gaussians of 48
    "paper-rates": {"lr": 8e-4, "codebook_lr_factor": 1.0},
    "add": {"decoder_input": "add"},
    "lr-4e-3": {"lr": 4e-3},
    "lr-16e-3": {"lr": 16e-3},
    "lr-32e-3": {"lr": 32e-3},
    "codebook-x1": {"codebook_lr_factor": 1.0},
    "codebook-x20": {"codebook_lr_factor": 20.0},
    "codebook-x80": {"codebook_lr_factor": 80.0},
    "soft": {"relaxation": "soft", "temperature": 0.5, "temperature_end": 0.1},
    "temperature-0.5": {"temperature": 0.5},
    "temperature-to-0.25": {"temperature_end": 0.25},
    "temperature-1": {"temperature_end": 1.0},
    "temperature-0.5-to-0.1": {"temperature": 0.5, "temperature_end": 0.1},
    "soft-samples": {"relaxation": "soft"},
    "as-printed": {"covariance": "as_printed"},
    "diagonal": {"covariance": "diagonal"},
    "fixed": {"covariance": "fixed"},
    "direct": {"prior": "direct"},
    "direct-fixed": {"prior": "direct", "covariance": "fixed"},
    "kmeans": {"codebook_init": "kmeans"},
    "unit-init": {"codebook_init": "unit"},
    "init-scale-0.3": {"init_scale": 0.3},
    "codes-256": {"codebook_size": (256,)},
    "codes-16": {"codebook_size": (16,)},
    "codes-8": {"codebook_size": (8,)},
    "codes-4": {"codebook_size": (4,)},
    "one-per-scale": {"pyramid": (16, 8, 4, 2)},
    "all-at-16": {"pyramid": (16,) * 6},
    "depth-1": {"pyramid": (16,)},
    "depth-2": {"pyramid": (16, 8)},
    "depth-4": {"pyramid": parse_sides("16*2,8,4")},
    "depth-8": {"pyramid": parse_sides("16*4,8*2,4,2")},
    "depth-16": {"pyramid": parse_sides("16*8,8*4,4*2,2*2")},
    "depth-32": {"pyramid": parse_sides("16*8,8*8,4*8,2*8")},
    "edge-bins": {"likelihood": "logistic-edge"},
    "logistic-pixel": {"likelihood": "logistic-pixel"},
    "mixture": {"likelihood": "mixture"},
    "components-3": {"components": 3},
    "components-10": {"components": 10},
    "gaussian": {"latent": "gaussian"},
    "groups-2": {"groups": 2},
    "groups-4": {"groups": 4},
    "groups-8": {"groups": 8},
    "reinmax": {"relaxation": "reinmax", "temperature": 1.0, "temperature_end": 1.0},
    "at-32": {"pyramid": parse_sides("32,16*4,8,4")},
    "seven-at-16": {"pyramid": parse_sides("16*5,8,4")},  # as many layers, none at 32
    "code-size-16": {"embedding_dim": 16},
    "adam": {"optimizer": "adam", "lr": 2e-3},
    "batch-16": {"batch_size": 16, "steps": 900, "eval_every": 900},
    "free-1": {"free_nats": 1.0},
    "free-4": {"free_nats": 4.0},
    "twice-as-long": {"steps": 900, "eval_every": 900},
}


def variant(name: str) -> str:
    """The name, if it is one variant or several joined by a plus."""
    for part in name.split("+"):
        if part not in VARIANTS:
            raise argparse.ArgumentTypeError(f"{part}: no such variant")
    return name


@torch.no_grad()
def relaxed_score(trainer: Trainer, images: torch.Tensor) -> float:
    """Bits per dim with samples relaxed as at the end of training: no bound when they are soft."""
    settings, model = trainer.settings, trainer.evaluated.eval()
    temperature = torch.tensor(settings.schedule.temperature_end)
    with seeded(settings.optimisation.seed):
        elbos = [model(part, temperature).elbo for part in images.split(100)]
    return bits_per_dim(torch.cat(elbos).mean().item(), settings.model.dims)


def trained(settings: RunSettings, splits: data.Splits, name: str) -> tuple[Trainer, dict]:
    """A run, and the last line of its log with the processor's seconds.

    Unlike the seconds of a clock, these hardly depend on what else the machine does meanwhile.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(settings, splits, Path(folder), name)
        start = time.process_time()
        trainer.run(show_progress=False)
        spent = time.process_time() - start
        line = json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[-1])
        return trainer, line | {"processor_seconds": round(spent, 1)}


def steps_in(seconds: float, settings: RunSettings, splits: data.Splits) -> int:
    """How many steps of a run take the processor so long here, by the time that 40 steps take."""
    first, second = (
        trained(changed(settings, steps=n, eval_every=n, lr_warmup=1), splits, "")[1]
        for n in (5, 45)
    )
    return round(40 * seconds / (second["processor_seconds"] - first["processor_seconds"]))


def run(name: str, dataset: str, seed: int, steps: int | None, seconds: float | None) -> dict:
    settings = changed(BASE, dataset=dataset, seed=seed)
    for part in name.split("+"):  # one after the other: what plays no part beside a later one goes
        settings = changed(settings, **VARIANTS[part])
    splits = data.load(dataset, settings.data.data_dir, settings.model.image_size)
    if seconds is not None:
        steps = steps_in(seconds, settings, splits)
    if steps is not None:
        settings = changed(settings, steps=steps, eval_every=steps)
    asked = {k for part in name.split("+") for k in VARIANTS[part]} | {"steps", "eval_every"}
    base = flattened(BASE)
    changes = {k: v for k, v in flattened(settings).items() if k in asked and v != base.get(k)}
    trainer, last = trained(settings, splits, name)
    images = splits.valid[: settings.evaluation.eval_images]
    return {
        "variant": name,
        "changes": changes,
        "seed": seed,
        "dataset": splits.name,
        **last,
        "relaxed_valid_bits_per_dim": relaxed_score(trainer, images),
        "versions": versions(),
        "hardware": hardware(trainer.device, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="+",
        type=variant,
        metavar="NAME",
        help="variants: " + ", ".join(VARIANTS),
    )
    parser.add_argument("--dataset", default="photos", help="as in rrvqlib.train")
    parser.add_argument("--seed", type=int, default=0, help="of every run")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="of every run")
    length.add_argument(
        "--seconds",
        type=float,
        help="of the processor that every run's steps shall take here, by the time of 40",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are appended here")
    args = parser.parse_args()
    check_writable(args.out)
    for name in args.names:
        line = run(name, args.dataset, args.seed, args.steps, args.seconds)
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{name:<22} {line['valid_bits_per_dim']:.3f} bits/dim  {line['seconds']:.0f} s")


if __name__ == "__main__":
    cli.run(lambda _: main())
