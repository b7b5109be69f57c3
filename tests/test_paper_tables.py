"""The two tables of the paper beside our runs: one source, and a page that is up to date."""

import json
from pathlib import Path

import pytest

from rrvqlib.runs.named import TABLE_G1 as NAMED_G1
from rrvqlib.teaching.ablation import CELLS, by_cell, sweep_runs
from rrvqlib.teaching.paper_tables import TABLE_1, TABLE_G1, folders, scores
from tools import tables_page

RESULTS = Path(__file__).resolve().parent.parent / "book" / "results"
OURS = [
    (dataset, row.ours) for dataset, rows in TABLE_1.items() for row in rows.values() if row.ours
]


def test_the_page_is_what_the_tool_writes():
    assert tables_page.PAGE.read_text() == tables_page.page(), "run tools/tables_page.py"


def test_the_named_runs_expect_what_the_table_says():
    cells = dict(
        zip(("direct-fixed", "embedding-fixed", "direct-learnt", "rrvq"), CELLS, strict=True)
    )
    for (dataset, cell), score in NAMED_G1.items():
        table = TABLE_G1[{"cifar10": "CIFAR-10", "svhn": "SVHN"}[dataset]]
        pair = table.get(cells[cell])
        assert score == (f"{pair[1]:.2f}" if pair else "calls it unstable")


@pytest.mark.parametrize(("dataset", "kind"), OURS)
def test_the_runs_of_a_row_are_what_the_page_says(dataset, kind):
    names = folders(dataset, kind)
    assert len(names) == len(scores(RESULTS, dataset, kind)) == (1 if kind == "vimco" else 2)
    for seed, name in enumerate(names):
        run = json.loads((RESULTS / name / "run.json").read_text())
        model, latent = run["settings"]["model"], run["settings"]["model"]["latent"]
        assert run["seed"] == seed and run["images_seen"] == 14_400
        assert {"CIFAR-10": "cifar10", "SVHN": "svhn", "CelebA": "celeba64"}[dataset] in run[
            "dataset"
        ]
        assert len(model["pyramid"]) == (4 if kind in ("rrvq", "spatial") else 1)
        assert model["pyramid"][0] == (32 if dataset == "CelebA" else 16)
        assert model["channels"] == 48
        assert latent["kind"] == ("gaussian" if kind == "spatial" else "relaxed")


def test_no_face_is_stored():
    """CelebA's terms: no redistribution."""
    for folder in RESULTS.iterdir():
        if folder.is_dir() and "celeba" in folder.name:
            assert not [*folder.glob("*.png"), *folder.glob("*.jpg"), *folder.glob("tensorboard")]


def test_grids_of_table_g1_are_whole():
    for file, recipe in tables_page.GRIDS.values():
        grid = by_cell(sweep_runs(RESULTS / file), recipe)
        assert all(len(grid[cell]) == 3 for cell in CELLS)


def test_the_page_would_show_another_number(monkeypatch):
    changed = {**TABLE_1["SVHN"]}
    name = next(iter(changed))
    changed[name] = changed[name]._replace(test=3.93)
    monkeypatch.setitem(tables_page.TABLE_1, "SVHN", changed)
    assert tables_page.PAGE.read_text() != tables_page.page()
