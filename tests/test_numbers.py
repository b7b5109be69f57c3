"""Every decimal in the book's prose is in a stored record, in a cell's output, or excused below."""

import json
import math
import random
import re
from functools import cache
from pathlib import Path

import nbformat
import pytest
import torch

from rrvqlib.models import build
from rrvqlib.runs import RUNS
from tools import tables_page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "book" / "results"
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
DECIMAL = re.compile(r"(?<![\w.,/-])\d+\.\d+(?![\w]|\.\d|-\d)")

# Numbers of the paper: Table 1 (test and train, CIFAR-10, SVHN, CelebA), Table G.1, and of the
# differences of its rows that the text takes.
PAPER = """5.14 4.77 4.87 4.16 4.02 3.94 3.81 3.55 3.49 3.73 4.17 2.30 2.52 1.94 2.07 5.31 2.97 2.54
2.58 5.00 5.05 5.06 5.11 5.08 5.10 4.40 4.65 3.44 3.32 3.51 3.41 3.02 2.96 0.83 0.39 0.40 0.51 0.36
0.06 0.05 0.02 0.25 0.5 0.8 0.74 0.60 0.42 1.43 2.34 0.43""".split()


def score(run):
    """Test bits per dim of a stored run."""
    return json.loads((RESULTS / run / "results.json").read_text())["test_bits_per_dim"]


def millions(run):
    """Parameters of a named run."""
    with torch.device("meta"):
        model = build(RUNS[run].settings.model)
    return sum(p.numel() for p in model.parameters()) / 1e6


def stored_millions(run):
    """Parameters of a stored run."""
    return json.loads((RESULTS / run / "run.json").read_text())["parameters"] / 1e6


# Decimals that no record holds as they are: what they are, computed or said. A text is a source.
EXCUSED = {
    "13.3": lambda: math.log2(9968),  # bits that tell test images apart
    **dict.fromkeys(
        ("3.74", "3.60", "3.46"), "Kingma et al. 2016: 4, 8 and 12 layers of Gaussians"
    ),
    "1.44": lambda: 1 / math.log(2),
    "0.083": lambda: 64 / 768,  # log2 of a doubling of K, 64 codes, 768 sub-pixels
    "16.6": lambda: -math.log(-math.log(1 - 2**-24)),  # the largest float32 Gumbel
    "3.6": lambda: 160_000 / 44_888,  # epochs of CIFAR-10
    "1.3": lambda: score("swatches-rvq-svhn") - score("swatches-spatial-svhn"),
    "10.2": lambda: millions("cifar10-l5-rrvq"),
    "1.8": lambda: stored_millions("cifar10-cpu-l32"),
    "8.7": lambda: stored_millions("cifar10-l32-c64"),
    "1.01": lambda: stored_millions("cifar10-cpu"),
    "1.83": lambda: stored_millions("cifar10-cpu-l32"),
    "1.6": "dB: a difference of two numbers that chapter 9 prints",
    "1.9": "the same",
    "2.9": "the same",
    "8.9": "read off the first point of chapter 9's live curve",
    "63.9": lambda: json.loads((RESULTS / "rival-hqa" / "results.json").read_text())["perplexity"][
        1
    ],
    "2.75": "Shi et al. (2024), masked diffusion on CIFAR-10",
    "4.51": "van den Oord et al. (2017), a Gaussian VAE on CIFAR-10",
    "4.67": "the same, the VQ-VAE",
    "3.11": "a version of Python",
    "3.14": "a version of Python",
    "2007.07307": "the paper's number on arXiv",
}


def decimals(text):
    """The decimals of a text, without those in code, addresses and image paths."""
    code = r"```(?!\{(?:exercise|solution|dropdown|admonition|prf)).*?```"
    text = re.sub(code, " ", text, flags=re.S)
    text = re.sub(r"`[^`]*`|\(https?://[^)]*\)|\bv?\d+\.\d+\.\d+\S*", " ", text)
    text = re.sub(r"(\d),(\d{3})", r"\1\2", text)
    return DECIMAL.findall(text)


ASIDE = ("seconds", "versions", "hardware")  # what no sentence is about


def numbers_in(value):
    """All numbers of a JSON value."""
    if isinstance(value, dict):
        value = [part for name, part in value.items() if name not in ASIDE]
    if isinstance(value, list):
        for part in value:
            yield from numbers_in(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


# Records that no prose quotes but where a tool writes it, or a cell prints it.
PRINTED = (
    "table-1",
    "stability-svhn",
    "ablation-l5-svhn",
    "compression",
    "free-bits",
    "gap",
    "rival-rrvq-l4-classes",
)


@cache
def records(*, all_of_them=False):
    """Scores and errors of finished runs, KLs, what measuring programs have written."""
    found = []
    skipped = () if all_of_them else PRINTED
    for path in RESULTS.glob("*/results.json"):
        if path.parent.name.startswith(skipped):
            continue
        result = json.loads(path.read_text())
        kl = result.pop("kl_bits_per_dim")
        found += [*kl, sum(kl), *numbers_in([v for k, v in result.items() if "bits_per_dim" in k])]
    for path in (*RESULTS.glob("*.json"), *RESULTS.glob("*/repeated.json")):
        if not path.name.startswith(skipped):
            found += numbers_in(json.loads(path.read_text()))
    for path in RESULTS.glob("*.jsonl"):
        if path.name.startswith(skipped):
            continue
        for line in map(json.loads, path.read_text().splitlines()):
            kl = line.pop("kl_bits_per_dim")
            found += [sum(kl), *(v for k, v in line.items() if k.endswith("valid_bits_per_dim"))]
            if path.name == "sweep-cifar10.jsonl":  # whose table has the losses, too
                found.append(line["train_loss_bits_per_dim"])
    return found


@cache
def outputs(path):
    """The numbers that a chapter's cells print or contain."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            text = cell.source + "".join(o.get("text", "") for o in cell.outputs)
            found += re.findall(r"\d+\.?\d*(?:e[+-]?\d+)?", re.sub(r"(\d),(\d{3})", r"\1\2", text))
    return [float(number) for number in found]


def known(number, values):
    """Whether a printed number is one of the values, rounded as it is."""
    digits = len(number.split(".")[1])
    return any(f"{value:.{digits}f}" == number for value in values)


def prose(path):
    if path.name == "paper-tables.md":
        return tables_page.TEXT  # all other numbers of it are computed, see test_paper_tables.py
    if path.suffix == ".md":
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    captions = [str(c.metadata.get("mystnb", "")) for c in cells]
    return "\n".join([*(c.source for c in cells if c.cell_type == "markdown"), *captions])


def unknown(path, text):
    """The decimals of a page's text that nothing holds."""
    values = list(records(all_of_them=path.name == "cpu-results.md"))
    for chapter in [path] if path.suffix == ".ipynb" else CHAPTERS:
        values += outputs(chapter)
    excused = {*PAPER, *EXCUSED}
    return sorted({n for n in decimals(text) if n not in excused and not known(n, values)})


@pytest.mark.parametrize("path", [*CHAPTERS, *PAGES], ids=lambda p: p.name)
def test_every_decimal_in_prose_is_stored_printed_or_excused(path):
    assert unknown(path, prose(path)) == []


@pytest.mark.parametrize("number", [n for n, why in EXCUSED.items() if callable(why)])
def test_excused_numbers_are_what_they_are_said_to_be(number):
    digits = len(number.split(".")[1])
    assert f"{EXCUSED[number]():.{digits}f}" == number


def test_excuses_are_needed():
    used = {n for path in [*CHAPTERS, *PAGES] for n in decimals(prose(path))}
    assert set(EXCUSED) <= used


def test_a_wrong_number_is_found():
    readme = prose(ROOT / "README.md")
    assert "**4.851** ± 0.005" in readme
    assert unknown(ROOT / "README.md", readme.replace("**4.851**", "**4.836**")) == ["4.836"]
    chapter = next(p for p in CHAPTERS if p.name.startswith("08"))
    text = prose(chapter) + " The gain is 0.317 bits/dim, or 0.46."
    assert "0.317" in unknown(chapter, text)


@pytest.mark.parametrize(("digits", "most"), [(2, 0.4), (3, 0.1)])
def test_a_number_made_up_is_seldom_found(digits, most):
    """How much the check is worth: numbers with two digits pass by chance, most others do not."""
    made = random.Random(0)
    numbers = [f"{made.uniform(0, 8):.{digits}f}" for _ in range(500)]
    assert sum(known(number, records()) for number in numbers) < most * len(numbers)


@cache
def scores_and_errors():
    results = [json.loads(path.read_text()) for path in RESULTS.glob("*/results.json")]
    return [(r["test_bits_per_dim"], r["test_bits_per_dim_se"]) for r in results]


@pytest.mark.parametrize("path", [*CHAPTERS, *PAGES], ids=lambda p: p.name)
def test_behind_a_number_plus_minus_is_a_standard_error_over_test_images(path):
    """As book/notation.md says, once, for all pages."""
    text = prose(path).replace("\\pm", "±").replace("*", "").replace("$", "")
    for number, error in re.findall(r"(\d+\.\d+) ?± ?(\d+\.\d+)", text):
        pairs = [s for s in scores_and_errors() if known(number, s[:1]) and known(error, s[1:])]
        assert pairs, f"{number} ± {error}"
