"""Chapter 12 as it runs on a GPU, by the clock: here with a tiny model and a few seconds."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from helpers import TINY, write_images

from rrvqlib.runs import RUNS, NamedRun
from rrvqlib.settings import changed

BOOK = Path(__file__).parent.parent / "book"
# How the cells begin that one would run.
CELLS = (
    "import json",
    'settings = RUNS["cifar10-l32-c64"]',
    "def trainer(folder)",
    "if not FULL_SCALE:\n    weights",
    "from rrvqlib.models import load_model",
    "thirty_two = load(",
)


@pytest.mark.filterwarnings("ignore::UserWarning")  # matplotlib's: there is nothing to show
def test_the_cells_train_by_the_clock_and_score(tmp_path, monkeypatch, capsys):
    matplotlib.use("agg")
    images = write_images(tmp_path / "images.npz", train=100, side=32)
    settings = changed(
        TINY,
        dataset=images,
        image_size=32,
        pyramid=(16,) + (2,) * 31,
        codebook_size=(4,),
        eval_every=4,
        steps=16,
    )
    monkeypatch.setitem(RUNS, "cifar10-l32-c64", NamedRun(settings, "seconds", "nothing"))
    monkeypatch.setenv("RRVQ_FULL_SCALE", "1")
    monkeypatch.chdir(BOOK)
    cells = json.loads((BOOK / "12-full-scale.ipynb").read_text())["cells"]
    sources, names = ["".join(cell["source"]) for cell in cells], {}
    for begin in CELLS:
        (source,) = (source for source in sources if source.startswith(begin))
        assert ("seconds=600" in source) == begin.startswith("settings")
        exec(source.replace("seconds=600", "seconds=15"), names)
    assert names["unbroken"].done and "again" not in names
    printed = capsys.readouterr().out
    assert f"ten minutes: {names['results']['test_bits_per_dim']:.3f} bits/dim" in printed
    assert replace(names["settings"].schedule, seconds=0) == settings.schedule
