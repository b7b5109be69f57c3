"""Write book/paper-tables.md: Tables 1 and G.1 as printed, and the stored runs of the same kinds.

python tools/tables_page.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rrvqlib.teaching.ablation import CELLS, by_cell, contrasts, interval, sweep_runs
from rrvqlib.teaching.paper_tables import TABLE_1, TABLE_G1, Printed, folders, scores

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "book" / "results"
PAGE = ROOT / "book" / "paper-tables.md"

ONE, CODES, GAUSSIANS = "relaxed VQ-VAE, one layer", "RRVQ-VAE, L = 32", "Spatial-VAE, L = 32"
# The longest runs of a row on CIFAR-10; each has a second seed.
LONG = {
    ONE: "cifar10-cpu-one-layer",
    CODES: "cifar10-cpu",
    GAUSSIANS: "cifar10-cpu-spatial",
}
# Table G.1: which file holds our runs, and which of its recipes.
GRIDS = {
    "CIFAR-10": ("ablation-l5-cifar10.jsonl", "l5+twice-as-long"),
    "SVHN": ("ablation-l5-svhn.jsonl", "l5"),
}


def result(folder: str, key: str) -> float:
    """A number of a stored run."""
    return json.loads((RESULTS / folder / "results.json").read_text(encoding="utf-8"))[key]


def each(values: list[float]) -> str:
    """The seeds of a row."""
    return ", ".join(f"{value:.3f}" for value in values)


def printed(row: Printed) -> str:
    """As in Table 1: test, and train in brackets."""
    return f"{row.test:.2f}" + (f" ({row.train:.2f})" if row.train else "")


def table_1() -> str:
    """Every row of Table 1, with ours of 14,400 images."""
    lines = [
        "| data | row of Table 1 | paper, test (train) | layers, ours | ours, test | ours, train |",
        "|---|---|---|---|---|---|",
    ]
    for dataset, rows in TABLE_1.items():
        for name, row in rows.items():
            ours = ["", "no counterpart", ""]
            if row.ours:
                keys = ("test_bits_per_dim", "train_bits_per_dim")
                layers = "4" if row.ours in ("rrvq", "spatial") else "1"
                ours = [layers, *(each(scores(RESULTS, dataset, row.ours, key)) for key in keys)]
            lines.append(f"| {dataset} | {name} | {printed(row)} | {' | '.join(ours)} |")
    return "\n".join(lines)


def long_rows() -> str:
    """The rows of CIFAR-10 that have runs of 224,000 images."""
    lines = ["| row | paper, test | layers, ours | ours, test | images |", "|---|---|---|---|---|"]
    for name, run in LONG.items():
        seeds = [f"{run}{end}" for end in ("", "-seed-1")]
        found = each([result(folder, "test_bits_per_dim") for folder in seeds])
        images = json.loads((RESULTS / run / "run.json").read_text(encoding="utf-8"))["images_seen"]
        paper = f"{TABLE_1['CIFAR-10'][name].test:.2f}"
        layers = 1 if name == ONE else 6
        lines.append(f"| {name} | {paper} | {layers} | {found} | {images:,} |")
    return "\n".join(lines)


def table_g1() -> str:
    """Every cell of Table G.1, with ours."""
    lines = [
        "| cell | CIFAR-10, paper: train / test | ours, validation | SVHN, paper: train / test |"
        " ours, validation |",
        "|---|---|---|---|---|",
    ]
    for cell in CELLS:
        parts = [cell]
        for dataset, (file, recipe) in GRIDS.items():
            pair = TABLE_G1[dataset].get(cell)
            parts.append(f"{pair[0]:.2f} / {pair[1]:.2f}" if pair else "unstable")
            parts.append(each(by_cell(sweep_runs(RESULTS / file), recipe)[cell].tolist()))
        lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def effects() -> str:
    """What the two settings do on both data sets, with intervals over seeds."""
    lines = ["| effect | CIFAR-10, ours | SVHN, ours |", "|---|---|---|"]
    grids = [by_cell(sweep_runs(RESULTS / file), recipe) for file, recipe in GRIDS.values()]
    for effect in ("both", "interaction"):
        cells = []
        for grid in grids:
            _, low, high = interval(contrasts(grid)[effect])
            cells.append(f"{low:+.3f} to {high:+.3f}")
        lines.append(f"| {effect} | {' | '.join(cells)} |")
    return "\n".join(lines)


def unremarked() -> dict[str, str]:
    """Differences between printed numbers, by the names that the page gives them."""
    cifar10 = TABLE_1["CIFAR-10"]
    one, deep, gaussian = (cifar10[name].test for name in LONG)
    cells = [test for cell, (_, test) in TABLE_G1["CIFAR-10"].items() if cell != "RRVQ"]
    found = {
        "worse": f"{min(cells) - one:.2f} to {max(cells) - one:.2f}",
        "foust": f"{cifar10['FouST, L = 4'].test - cifar10['FouST, L = 1'].test:.2f}",
        "depth": f"{one - deep:.2f}",
        "twelve": f"{gaussian - 3.46:.2f}",
        "plain": f"{one - 4.67:.2f}",
    }
    for number, (dataset, rows) in enumerate(TABLE_1.items()):
        tests = [rows[name].test for name in LONG]
        found[f"price{number}"] = f"{tests[1] - tests[2]:.2f}"
        turned = [row.test - row.train for row in rows.values() if row.train]
        found[f"gaps{number}"] = ", ".join(f"{gap:+.2f}" for gap in turned)
        assert len(turned) == 3, dataset
    g1 = [test - train for train, test in TABLE_G1["CIFAR-10"].values()]
    found["g1"] = ", ".join(f"{gap:+.2f}" for gap in g1)
    return found


TEXT = """\
# Tables 1 and G.1, whole

Every row that the paper prints {{cite:p}}`willetts2020`, in bits per dim, and beside it what this book has of the same kind.
**Ours are short runs of small models.** They are there to compare rows with each other on one budget; against the paper's
column they only say how far a short budget gets. {{doc}}`status` says the same of every figure and claim.

Of the three data sets we have parts, and only those of CIFAR-10 are nearly whole: 49,862 of its 50,000 training images, of which 4,974 validate, and 9,968 of its 10,000 test images. Of SVHN there are 943 images to train on, 104 to validate and 217 to test, in file order (the
paper's were 73,257 and more); of CelebA 4,560, 780 and 659 faces of 200 people, cut out and resized in our own way. Scores on these two compare
within one data set and with nothing else.

(sec-table-1)=
## Table 1

Ours: 14,400 images each, 450 steps of 32, two seeds. RRVQ and Spatial-VAE are *four* layers of 48 channels where the paper's are 32 of 256; at 64 × 64 pixels all grids have twice the side. The settings are those of
{{doc}}`10-rivals`, the same on all data sets, with a logistic for each channel, the paper's but for edge bins ({{doc}}`cpu-results` says what they are worth); train scores are of 2,000 images, or of all if there are fewer. VIMCO has one seed; the published number that the paper quotes is a lower bound of a model trained with 50 samples, ours here is the ELBO, like all others of ours ({{doc}}`10-rivals` has its bound as well).

{table_1}

Why no counterpart for FouST: its text was not at hand. {{doc}}`10-rivals` trains *bits* by a rule of its own, which does not carry that name.

On 224,000 images of CIFAR-10 (one layer, six layers, six layers of Gaussians; 82 to 123 minutes of a CPU core for the hierarchies), two seeds:

{long_rows}

- **Several layers beat one on all three data sets, with both seeds**: after 14,400 images by {gain0} bits/dim on CIFAR-10, {gain1} on SVHN, {gain2} on CelebA. The paper's gains, of 32 layers and long training, are {paper_gain0}, {paper_gain1} and {paper_gain2}.
- **Codes and Gaussians are still level.** Codes less Gaussians, seed by seed: {signed0} on CIFAR-10 (where the two seeds of Gaussians alone are 0.09 apart), {signed1} on SVHN, {signed2} on CelebA, all from scores before rounding. On CIFAR-10 the distance of Table 1 is not there after 14,400 images and is there after 224,000 ({{doc}}`11-what-depth-buys` follows it). For the other two we have no runs of that length. (The Gaussians' networks put out two numbers where codes need one, and are 28 or 29 % larger.)
- **Test and training images score alike**, within {apart} bits/dim in every row. That SVHN's test images seem easier, by every row of the paper, cannot show here: our 217 are the end of the training crops, not of the official test set.

(sec-table-g1)=
## Table G.1

Ours are the five layers of the table, K = 256, D = 128, with 32 channels, and one variance for each code where the paper's are diagonal; three
seeds; on CIFAR-10 28,800 images a run, on SVHN 14,400 (fifteen times its 943). The scores are of the first 500 validation images, on SVHN of all 104. {{doc}}`08-ablation` has
the figures, and runs without safeguards.

{table_g1}

As 95 % {{ref}}`intervals <sec-errors>` over three seeds, compared seed by seed, in bits per dim. *Both* is RRVQ less `direct, σ = 1`, so that a gain is negative; the *interaction* is what both changes do together less the sum of what each does alone:

{effects}

The paper's RRVQ gains 0.40 on CIFAR-10 and 0.36 on SVHN over the cell without both changes. Early in training no such gain is there on either. One of the four intervals excludes zero, the interaction on SVHN, and it is positive: together the two changes do slightly worse than their sum. With four intervals over three seeds each that may be chance; if nothing were there, about one table in five would show as much. The cell that the table calls unstable was trained on SVHN like the others: steps skipped in all {runs_svhn} runs: {skipped_svhn}.

(sec-svhn-pictures)=
## Figures E.7 and E.8 on SVHN

From the runs of Table 1 above, seed 0. Faces of CelebA may not be passed on, so of that data set there are numbers only.

```{{figure}} results/table-1-svhn-rrvq/reconstructions.png
:alt: Pairs of house numbers, reconstruction left and original right. Digits keep their shapes and lose their sharp edges.
:name: fig-e7-svhn
:width: 90%

After Fig. E.7: reconstruction (left) and original (right) of each pair, the first 32 test images of our part of SVHN; four layers, 14,400 images seen.
```

```{{figure}} results/table-1-svhn-rvq/samples.png
:alt: Sixty-four samples of one layer, a fine grain of dull blue, grey and brown.
:name: fig-e8-svhn-one
:width: 45%

After Fig. E.8, its top row: samples of one layer of relaxed codes on SVHN.
```

```{{figure}} results/table-1-svhn-rrvq/samples.png
:alt: Sixty-four samples of four layers, soft blue and grey clouds, lighter and darker from picture to picture.
:name: fig-e8-svhn
:width: 45%

After Fig. E.8, the rows below: samples of four layers with relaxed responsibilities.
```

Compare them with the paper's by kind only. Reconstructions keep place, colour and stroke of a digit. Samples of one layer are a fine grain, each place for itself. Those of four layers are larger clouds, and whole pictures begin to differ in their light; no digit is among them, nor a sign.

(sec-unremarked)=
## What the printed numbers show, and the paper does not remark

All from its own two tables, but for five numbers of two other papers.

- **Three of four ablation cells are worse than one layer.** On CIFAR-10 five layers with one of the two changes or none are *worse* than the single layer of Table 1 by {worse} bits/dim, test images. More layers may
  ignore the upper ones, so they need not be worse. One explanation would be that these models had not finished, or had been trained otherwise. On SVHN the two of them that have a score beat the single layer; the third is called unstable.
- **On CIFAR-10 RRVQ alone knows its training images.** Test minus train in Table G.1, CIFAR-10, in the order above: {g1}.
- **On two of three data sets one layer tests better than it trains.** Test minus train in Table 1, for one layer, RRVQ and Spatial-VAE: CIFAR-10 {gaps0}; SVHN {gaps1}; CelebA {gaps2}. On SVHN that holds for all three, as if its test images were the easier ones. On
  CIFAR-10 it holds for one layer only. (In our own short runs, above, train and test are level.)
- **More layers do not always help.** FouST with four layers is {foust} worse than with one; the paper's one layer and its 32 differ by {depth}.
- **From codes to Gaussians it is about 0.4 on all three data sets.** RRVQ less Spatial-VAE: {price0} on CIFAR-10, {price1} on SVHN, {price2} on CelebA, although the scores themselves differ by up to a factor of 1.8.
- **The Gaussian twin is not a ceiling.** The ResNet VAE that it follows has been published with diagonal Gaussians and 4, 8 and 12 layers at 3.74, 3.60 and 3.46 {{cite:p}}`kingma2016`. Twelve layers there
  are {twelve} better than 32 here. So 3.55 is not what this family can do, and the distance from RRVQ to it is not the whole price of codes, or the codes could be trained better as well.
- **A row is missing.** The VQ-VAE's own 4.67 {{cite:p}}`oord2017` is better than the table's one layer of relaxed codes, by {plain}. Its authors give a Gaussian VAE of one layer beside it, 4.51: there codes and Gaussians lie 0.16 apart, not 0.4.
"""


def short_runs() -> dict[str, str]:
    """What the rows of 14,400 images say, by the names that the page gives it."""
    found, apart = {}, []
    for number, (dataset, rows) in enumerate(TABLE_1.items()):
        one, codes, gaussians = (scores(RESULTS, dataset, rows[name].ours) for name in LONG)
        gains = [a - b for a, b in zip(one, codes, strict=True)]
        found[f"gain{number}"] = f"{min(gains):.2f} to {max(gains):.2f}"
        found[f"paper_gain{number}"] = f"{rows[ONE].test - rows[CODES].test:.2f}"
        signed = [a - b for a, b in zip(codes, gaussians, strict=True)]
        found[f"signed{number}"] = " and ".join(f"{gap:+.3f}" for gap in signed)
        for name in LONG:
            test, train = (
                scores(RESULTS, dataset, rows[name].ours, f"{split}_bits_per_dim")
                for split in ("test", "train")
            )
            apart += [abs(a - b) for a, b in zip(test, train, strict=True)]
    return found | {"apart": f"{max(apart):.3f}"}


def stability() -> dict[str, str]:
    """Steps that the runs of Table G.1 on SVHN skipped."""
    runs = sweep_runs(RESULTS / GRIDS["SVHN"][0])
    skipped = sum(run.record["skipped_steps"] for run in runs)
    return {"runs_svhn": str(len(runs)), "skipped_svhn": str(skipped)}


def page() -> str:
    """The whole page."""
    for dataset, rows in TABLE_1.items():
        for row in rows.values():
            assert not row.ours or all((RESULTS / f).exists() for f in folders(dataset, row.ours))
    return TEXT.format(
        table_1=table_1(),
        long_rows=long_rows(),
        table_g1=table_g1(),
        effects=effects(),
        **short_runs(),
        **stability(),
        **unremarked(),
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # --help, and nothing else
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
