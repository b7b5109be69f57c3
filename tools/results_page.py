"""Write book/cpu-results.md from the records in book/results: every number comes from there.

python tools/results_page.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "book" / "results"

EXPLAINED = {
    "base": "lr 8e-3, codebooks ×5, straight-through, temperature 1 to 0.5, code joins inside the"
    " block, correct normaliser, Kingma's bins",
    "add": "code added to the decoder's state",
    "lr-4e-3": "half the learning rate",
    "lr-16e-3": "twice the learning rate",
    "codebook-x20": "codebooks ×20",
    "soft": "soft samples, temperature 0.5 to 0.1",
    "temperature-to-0.25": "temperature 1 to 0.25",
    "edge-bins": "outermost bins reach to infinity",
    "kmeans": "codebooks from k-means of the first batch",
    "all-at-16": "pyramid 16-16-16-16-16-16",
    "one-per-scale": "pyramid 16-8-4-2",
    "as-printed": "normaliser as printed in Eq. (6)",
    "fixed": "variances fixed at 1, Eq. (2)",
    "diagonal": "one variance per code and coordinate",
    "direct": "the prior's logits straight from the network",
    "direct-fixed": "both: direct prior and variances fixed at 1",
}


def sweep_table() -> str:
    """The sweep, best first; all of it was scored on validation images."""
    lines = [json.loads(t) for t in (RESULTS / "sweep-cifar10.jsonl").read_text().splitlines()]
    lines.sort(key=lambda line: line["valid_bits_per_dim"])
    rows = [
        f"| {EXPLAINED[line['variant']]} | {line['valid_bits_per_dim']:.3f} |"
        f" {line['train_loss_bits_per_dim']:.3f} | {sum(line['kl_bits_per_dim']):.2f} |"
        for line in lines
    ]
    return "\n".join(
        [
            "| change from the first settings | validation | training loss | KL |",
            "|---|---|---|---|",
        ]
        + rows
    )


# Which chapter reads the folders whose names begin so.
CHAPTERS = {
    "cifar10-cpu-mixture": "13-beyond-the-paper",
    "cifar10-cpu": "11-what-depth-buys",
    "cifar10-l32": "12-full-scale",
    "photos-mixture": "13-beyond-the-paper",
    "photos64": "09-compression",
    "photos": "07-hierarchy",
    "celeba": "09-compression",
    "swatches": "06-swatches",
    "tiny": "07-hierarchy",
    "stability": "08-ablation",
    "rival-fsq": "14-relatives",
    "rival-gm-vq": "14-relatives",
    "rival-rsq-vae": "14-relatives",
    "rival-sq-vae-2": "14-relatives",
    "rival-rrvq-l4-classes": "your-own-images",
    "rival": "10-rivals",
    "table-1": "paper-tables",
}


def grids(sides: list[int]) -> str:
    """[16, 16, 8] -> "16 ×2, 8"."""
    counts = {side: sides.count(side) for side in sides}
    return ", ".join(f"{side} ×{n}" if n > 1 else str(side) for side, n in counts.items())


def runs_table() -> str:
    """Every run folder: data, model, cost, score, and where it is read."""
    rows = ["| run | data | grids | images | minutes | test bits/dim | read in |", "|" + "---|" * 7]
    for path in sorted(RESULTS.glob("*/results.json")):
        run = json.loads((path.parent / "run.json").read_text())
        results = json.loads(path.read_text())
        name = path.parent.name
        chapter = next(c for prefix, c in CHAPTERS.items() if name.startswith(prefix))
        rows.append(
            f"| `{name}` | {run['dataset'].removeprefix('npz:').removesuffix('.npz')} |"
            f" {grids(run['settings']['model']['pyramid'])} | {run['images_seen']:,} |"
            f" {run['wall_seconds'] / 60:.0f} | {results['test_bits_per_dim']:.3f} ±"
            f" {results['test_bits_per_dim_se']:.3f} | {{doc}}`{chapter}` |"
        )
    return "\n".join(rows)


def bound(results: dict) -> str:
    """The importance-weighted bound; with its error and the ELBO of the same images where stored."""
    if "iw_elbo_bits_per_dim" not in results:  # a run older than these
        return f"{results['iw_bits_per_dim']:.3f} (other images than the score's: the two do not compare)"
    return (
        f"{results['iw_bits_per_dim']:.3f}, with a standard error of {results['iw_bits_per_dim_se']:.3f},"
        f" where the ELBO of the same samples is {results['iw_elbo_bits_per_dim']:.3f}"
    )


def run_section(name: str) -> str:
    """One run: what it was, what came out, its pictures."""
    folder = RESULTS / name
    run = json.loads((folder / "run.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    settings, schedule = run["settings"]["model"], run["settings"]["schedule"]
    codes = settings["latent"]["codebook_size"][0]
    layers = "\n".join(
        f"| {layer} | {side}×{side} | {kl:.4f} | {used:.0f} of {codes} |"
        for layer, (side, kl, used) in enumerate(
            zip(
                settings["pyramid"], results["kl_bits_per_dim"], results["perplexity"], strict=True
            ),
            start=1,
        )
    )
    return f"""
**{results["test_bits_per_dim"]:.3f} bits/dim** on all {results["n_test"]:,} test images (standard error
{results["test_bits_per_dim_se"]:.3f}; one-sample ELBO, hard samples); importance-weighted bound of
{results["iw_k"]} samples on the first {results["iw_n"]} of them {bound(results)}; first
{results["n_train"]:,} training images {results["train_bits_per_dim"]:.3f}.

$L={len(settings["pyramid"])}$, {settings["channels"]} channels, {run["parameters"] / 1e6:.2f} M parameters,
{run["images_seen"]:,} images seen in {schedule["steps"]:,} steps, {run["wall_seconds"] / 60:.0f} minutes on
{run["hardware"]["device"].replace("1 threads", "one thread")} with other work beside it; torch {run["versions"]["torch"]}, seed {run["seed"]},
{run["skipped_steps"]} steps skipped.

| layer | grid | KL, bits/dim | codes in use (perplexity) |
|---|---|---|---|
{layers}

```{{figure}} results/{name}/reconstructions.png
:alt: Pairs of CIFAR-10 test images, reconstruction left and original right; shapes and colours are kept.
:name: fig-{name}-reconstructions
:width: 90%

Reconstruction (left) and original (right) of each pair, the first 32 test images.
```

```{{figure}} results/{name}/samples.png
:alt: Sixty-four ancestral samples; smooth coloured textures without recognisable objects.
:name: fig-{name}-samples
:width: 60%

Ancestral samples at temperature 1, one pass from the top layer down.
```
"""


PAGE = """\
# Results on a CPU

How far do two CPU cores get on CIFAR-10? This page holds the runs that chose the recipe, two
runs that used it, and a table of every run of the book. Their folders are in `book/results/`, each with its command, settings, seed, versions,
hardware and time.

The data are those CIFAR-10 images that were at hand in lossless form: 49,862 of the 50,000 for
training, of which 4,974 (official positions 45,000 and above) validate, and 9,968 of the 10,000
test images; 138 and 32, nearly all ships, are missing. No test image had a say in any choice.

## Choosing a recipe

Short runs, 14,400 images each (450 steps of 32), one seed, 48 channels, $K=64$, pyramid
16-16-16-16-8-4, scored on the first 500 validation images (standard error 0.016 to 0.018), in
bits/dim:

{sweep}

Other seeds moved four of these rows by up to 0.05 ({{doc}}`08-ablation` has three of each), and other recipes by
more, so smaller differences say little. Where the layers sit decides most: with one layer per scale the score is far behind, though its codes say a quarter of what they have room for. The learning rate comes next, as it
does in many early comparisons; code that joins inside the residual block scores 0.05 better than code
added to the state, no more than a seed moves; k-means scores 0.07 worse than small random codes. A short run favours large learning rates, so
the long ones below use 12e-3 (six layers) and 8e-3 (32 layers), with edge bins and a temperature that
falls to 0.3. Further variants (K of 16 and 256, Adam, batch 16) are ready in `tools/sweep.py` and have
not been run. The two long runs were started before the rows on pyramids, normalisers and priors were
measured.

## Six layers

```bash
python -m rrvqlib.train --run cifar10-cpu --dataset npz:data/cifar10.npz --out runs/cifar10-cpu
```
{six}
## Thirty-two layers

The paper's pyramid, four groups of eight layers, with 24 channels in place of 256.

```bash
python -m rrvqlib.train --run cifar10-cpu-l32 --dataset npz:data/cifar10.npz \\
    --out runs/cifar10-cpu-l32
```
{deep}
## Every run of the book

The table is made from the folders in `book/results/`; ± is {{ref}}`one standard error over test images
<sec-errors>`. Minutes include waiting for other work on the machine, most of all that of
`cifar10-cpu-mixture-four-of-64`, whose second seed took half as long. Bits per
dim compare within one data set only: `celeba64` and `svhn` are the parts at hand (5,999 and 1,264
images), `photos` are patches of the photographs that come with scikit-image and matplotlib.

{runs}

## What this says and what it does not

The paper's 3.94 is a model of 32 layers of 256 channels (by our count some 86 million parameters) trained for up to 500 epochs; these saw
five epochs and fewer. They show that the recipe trains, that several layers carry bits, and what
it costs. About nine tenths of the bits lie at 16×16; in the deep model layers 20, 22 and 24 have collapsed and
those at 2×2 carry next to nothing, which a hundred times more training may or may not change.

The six-layer run was stopped at step 631 and resumed. Both use edge bins, where the paper uses
Kingma's form: with the latter the same six-layer weights score {kingma:.3f} in place of {edge:.3f} on the first
{likelihood[test_images]:,} test images (`likelihood-cifar10.json`), so for these weights {likelihood[difference]:.3f} bits/dim are a
convention; six layers trained with either kind came 0.04 apart in the table above, one seed. Full-scale runs are named in `rrvqlib/runs/named.py` and have not been made.
"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # --help, and nothing else
    likelihood = json.loads((RESULTS / "likelihood-cifar10.json").read_text())
    page = PAGE.format(
        likelihood=likelihood,
        edge=likelihood["bits_per_dim"]["edge bins"],
        kingma=likelihood["bits_per_dim"]["Kingma's bins"],
        sweep=sweep_table(),
        runs=runs_table(),
        six=run_section("cifar10-cpu"),
        deep=run_section("cifar10-cpu-l32"),
    )
    (ROOT / "book" / "cpu-results.md").write_text(page)
    print("book/cpu-results.md")


if __name__ == "__main__":
    main()
