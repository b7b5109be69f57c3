"""Models that come with the library: their folders, their names, their scores."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rrvqlib
from rrvqlib import cli, data, evaluate, sample
from rrvqlib.errors import UserError
from rrvqlib.models import VAE, load_model, ready
from rrvqlib.models.__main__ import main
from rrvqlib.models.ready import READY, WEIGHTS, find_model
from rrvqlib.models.saved import load_weights
from rrvqlib.runs.scoring import score

RESULTS = Path(__file__).resolve().parent.parent / "book" / "results"


def test_every_folder_of_weights_has_a_name():
    assert {folder.name for folder in WEIGHTS.iterdir()} == set(READY)


@pytest.mark.parametrize("name", READY)
def test_a_ready_model_is_whole(name):
    model = rrvqlib.load(name)
    assert isinstance(model, VAE) and not model.training
    assert model.sample(1).shape == (1, 3, *2 * (model.settings.image_size,))
    record = json.loads((RESULTS / name / "config.json").read_text())
    assert json.loads((WEIGHTS / name / "config.json").read_text()) == record
    results = json.loads((RESULTS / name / "results.json").read_text())
    assert READY[name].bits_per_dim == round(results["test_bits_per_dim"], 3)
    card = (WEIGHTS / name / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert f'rrvqlib.load("{name}")' in card
    assert f"{READY[name].bits_per_dim:.3f} bits/dim" in card
    assert f"datasets: [{READY[name].dataset}]" in card
    size = sum(p.numel() for p in model.parameters()) / 1e6
    (told,) = re.findall(r"([\d.]+) M parameters", card)
    assert abs(size - float(told)) <= 0.5 * 10 ** -len(told.partition(".")[2]) + 1e-9


def test_the_score_of_photos_is_that_of_its_weights():
    """float16 weights, scored anew: as when they were float32."""
    images = data.load("photos", image_size=32).test
    again = score(rrvqlib.load("photos"), images)
    assert again["bits_per_dim"] == pytest.approx(READY["photos"].bits_per_dim, abs=0.01)


def test_names_folders_and_repositories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("photos") == WEIGHTS / "photos"
    (tmp_path / "photos").mkdir()  # of pictures, say: no model
    assert find_model("photos") == WEIGHTS / "photos"
    (tmp_path / "photos" / "run.json").write_text("{}")  # a run, which is not finished
    with pytest.raises(UserError, match="not come to its end yet"):
        rrvqlib.load("photos")
    (tmp_path / "photos" / "run.json").unlink()
    rrvqlib.load("photos").save_pretrained("photos")
    assert find_model("photos") == Path("photos")
    assert find_model("runs/none") == Path("runs/none")  # load_model says what is missing
    with pytest.raises(UserError, match="ready are photos, "):
        find_model("fotos")
    for bad in ("", None, 3):
        with pytest.raises(UserError, match="is no model"):
            find_model(bad)


def test_a_repository_is_fetched_without_pickles(tmp_path, monkeypatch):
    seen = {}

    def fetch(repository, allow_patterns):
        seen.update(repository=repository, patterns=allow_patterns)
        return str(WEIGHTS / "photos")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert rrvqlib.load("hub:someone/photos").settings == rrvqlib.load("photos").settings
    assert seen["repository"] == "someone/photos"
    assert not any(".bin" in p or ".p" in Path(p).suffix for p in seen["patterns"])

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(UserError, match="hub:someone/photos cannot be fetched"):
        rrvqlib.load("hub:someone/photos")


def test_a_name_that_is_no_repository_is_refused():
    with pytest.raises(UserError, match="OWNER/NAME"):
        rrvqlib.load("hub:not a name")


def test_the_list(capsys):
    main([])
    text = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", text, re.M) for name in READY)
    main(["--json"])
    table = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(table) == set(READY)
    assert table["cifar10-l32-c64"]["layers"] == 32
    for name, row in table.items():
        files = WEIGHTS.joinpath(name).glob("model*.safetensors")
        assert row["megabytes"] == pytest.approx(sum(f.stat().st_size for f in files) / 1e6)


def test_commands_take_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.run(sample.main, ["photos", "--n", "2", "--device", "cpu"])
    assert Path("samples.png").exists()
    cli.run(evaluate.main, ["photos", "--limit", "2", "--device", "cpu"])  # on its own data set
    assert "photos, test: " in capsys.readouterr().out


def test_a_training_starts_from_a_ready_model():
    model = rrvqlib.load("photos")
    first = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    load_weights(model, "photos")
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_load_model_takes_folders_alone():
    with pytest.raises(UserError, match="config.json is missing"):
        load_model("photos")


def test_importing_and_listing_need_no_torch():
    code = (
        "import sys; from rrvqlib.models.__main__ import main; main([]);"
        " sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert ready.load is rrvqlib.load
