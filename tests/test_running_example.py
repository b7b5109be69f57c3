"""The book's small models train on one budget, and their scoreboard shows what is stored."""

import ast
import inspect
import json
from pathlib import Path

import pytest
import torch

from rrvqlib import data
from rrvqlib.models import build
from rrvqlib.objectives import bits_per_dim
from rrvqlib.teaching import EXAMPLES, left_differences, log2_histogram, scoreboard, train

PATCHES = data.load("photos", image_size=16)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_learns(name):
    torch.manual_seed(0)
    model = build(EXAMPLES[name])
    seen = train(model, PATCHES.train, steps=12)
    assert seen.shape == (12, 2) and not model.training
    assert seen[-4:].sum(1).mean() < seen[:4].sum(1).mean()


def test_what_a_step_saw_is_the_elbo_of_its_batch():
    torch.manual_seed(0)
    model = build(EXAMPLES["Gaussian VAE"])
    (seen,) = train(model, PATCHES.train[:1], steps=1)  # a batch of one image, 16 times
    torch.manual_seed(0)
    again = build(EXAMPLES["Gaussian VAE"])
    again.initialise(PATCHES.train[:1])
    torch.randint(1, (16,))
    terms = again(PATCHES.train[[0] * 16], torch.tensor(1.0))
    assert seen.sum().item() == pytest.approx(
        bits_per_dim(terms.elbo.mean(), model.settings.dims).item(), abs=1e-4
    )


def test_the_scoreboard_stops_where_the_chapter_is(tmp_path, capsys):
    file = tmp_path / "scores.json"
    scores = {"left neighbour": [6.0], "Gaussian VAE": [5.8, 5.9], "VQ-VAE": [6.1, 6.2]}
    file.write_text(json.dumps({"bits_per_dim": scores}))
    figure = scoreboard(file, "Gaussian VAE")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["left neighbour", "Gaussian VAE"]
    assert "5.85 bits/dim" in capsys.readouterr().out


def without_docstring(function):
    lines = inspect.getsource(function).rstrip().splitlines()
    first = ast.parse("\n".join(lines)).body[0].body[0]
    return "\n".join(lines[: first.lineno - 1] + lines[first.end_lineno :])


@pytest.mark.parametrize("function", [train, log2_histogram, left_differences])
def test_chapter_1_shows_what_the_library_does(function):
    chapter = Path(__file__).parent.parent / "book" / "01-bits-per-dimension.ipynb"
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    shown = ["".join(cell["source"]) for cell in cells if not cell["metadata"].get("tags")]
    assert sum(without_docstring(function) in source for source in shown) == 1
