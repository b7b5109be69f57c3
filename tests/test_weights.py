"""Weights in one file or in shards: what is written is read, and a mixture is refused."""

import json
import shutil

import pytest
import torch
from helpers import TINY, names, trainer, write_images
from safetensors.torch import load_file, save_file

from rrvqlib.errors import UserError
from rrvqlib.models import HierarchicalVAE, build, load_model, save_model, weights
from rrvqlib.models.saved import load_weights
from rrvqlib.models.weights import INDEX, BadWeights, read_weights, weight_files, write_weights
from rrvqlib.optimisation import reports
from rrvqlib.settings import ModelSettings, changed

SETTINGS = changed(
    ModelSettings(), image_size=8, pyramid=(4, 2), codebook_size=(4,), embedding_dim=3, channels=16
)
SHARD_MB = 0.02


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(SETTINGS)


@pytest.mark.parametrize("shard_mb", [5000, SHARD_MB])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_comes_back_from_its_files(dtype, shard_mb, model, tmp_path):
    save_model(model, tmp_path, dtype, shard_mb)
    files = weight_files(tmp_path)
    assert (len(files) > 1) == (shard_mb == SHARD_MB)
    assert all(path.stat().st_size < 1.3e6 * shard_mb for path in files)
    kind = getattr(torch, dtype)
    for again in (load_model(tmp_path), HierarchicalVAE.from_pretrained(tmp_path)):
        assert again.settings == SETTINGS and not again.training
        for name, value in model.state_dict().items():
            found = again.state_dict()[name]
            assert found.dtype == torch.float32
            assert torch.equal(found, value.to(kind).float()), name


def test_a_run_starts_from_shards(model, tmp_path):
    save_model(model, tmp_path, "float16", SHARD_MB)
    other = build(SETTINGS)
    load_weights(other, tmp_path)
    assert torch.equal(other.decoder.top_vector, model.decoder.top_vector)


def test_a_run_writes_what_its_settings_say(tmp_path):
    dataset = write_images(tmp_path / "images.npz")
    run = trainer(
        changed(TINY, dataset=dataset, weights_dtype="float16", channels=128, shard_mb=1),
        tmp_path / "run",
    )
    run.step()
    reports.finish(run)
    files = weight_files(tmp_path / "run")
    assert len(files) > 1
    assert all(t.dtype == torch.float16 for path in files for t in load_file(path).values())
    # The parameters are views of one vector; a file holds them one by one.
    total = sum(p.numel() for p in run.model.parameters())
    assert sum(path.stat().st_size for path in files) < 2.3 * total


def test_files_of_an_earlier_call_do_not_stay(model, tmp_path):
    write_weights(model.state_dict(), tmp_path, shard_mb=SHARD_MB)
    write_weights(model.state_dict(), tmp_path)
    assert names(tmp_path) == ["model.safetensors"]
    write_weights(model.state_dict(), tmp_path, torch.float16, SHARD_MB)
    assert INDEX in names(tmp_path) and "model.safetensors" not in names(tmp_path)
    write_weights(model.state_dict(), tmp_path, torch.float16, 2 * SHARD_MB)
    assert len(names(tmp_path)) == len(weight_files(tmp_path)) + 1
    found = read_weights(tmp_path)["decoder.top_vector"]
    assert torch.equal(found, model.decoder.top_vector.half())


def test_files_that_are_not_the_model_s_stay(model, tmp_path):
    for other in ("model_before_finetuning.safetensors", "model.fp16.safetensors"):
        (tmp_path / other).write_bytes(b"mine")
        for shard_mb in (5000, SHARD_MB, 5000):
            write_weights(model.state_dict(), tmp_path, shard_mb=shard_mb)
        assert (tmp_path / other).read_bytes() == b"mine"


def test_shards_of_two_models_are_refused(model, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, seed in ((one, 1), (two, 2)):
        folder.mkdir()
        torch.manual_seed(seed)
        save_model(build(SETTINGS), folder, "float16", SHARD_MB)
    shutil.copy(weight_files(two)[0], weight_files(one)[0])
    with pytest.raises(BadWeights, match="shards of different runs"):
        read_weights(one)
    with pytest.raises(UserError, match="different runs.*copy the files anew"):
        load_model(one)


@pytest.mark.parametrize("shard_mb", [5000, SHARD_MB])
def test_a_flipped_bit_is_refused(shard_mb, model, tmp_path):
    write_weights(model.state_dict(), tmp_path, shard_mb=shard_mb)
    path = weight_files(tmp_path)[-1]
    content = bytearray(path.read_bytes())
    content[-7] ^= 4
    path.write_bytes(content)
    with pytest.raises(BadWeights, match="damaged"):
        read_weights(tmp_path)


def test_a_missing_or_foreign_shard_is_refused(model, tmp_path):
    write_weights(model.state_dict(), tmp_path, shard_mb=SHARD_MB)
    index = (tmp_path / INDEX).read_text()
    for wrong in ("{}", "[1]", '{"weight_map": {"a": "../model.safetensors"}}', "[" * 100_000):
        (tmp_path / INDEX).write_text(wrong)
        with pytest.raises(BadWeights, match="damaged"):
            read_weights(tmp_path)
    (tmp_path / INDEX).write_text(index)
    weight_files(tmp_path)[0].unlink()
    with pytest.raises(BadWeights, match="missing"):
        read_weights(tmp_path)


def test_weights_that_float16_cannot_hold_are_refused(tmp_path):
    with pytest.raises(BadWeights, match=r"big.*float16"):
        write_weights({"big": torch.full((3,), 1e6)}, tmp_path, torch.float16)
    assert names(tmp_path) == []


def test_files_without_a_digest_are_read(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    assert torch.equal(read_weights(tmp_path)["a"], torch.ones(3))


def test_an_index_of_nothing_is_refused(model, tmp_path):
    save_model(model, tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": {}}')
    with pytest.raises(UserError, match="names no shards"):
        load_model(tmp_path)


def test_what_the_reader_of_weights_hides_is_told(model, tmp_path, monkeypatch):
    """It says of a file without permission that there is none, and loses a KeyboardInterrupt."""
    save_model(model, tmp_path)

    def fail(error):
        def safe_open(*_):
            raise error

        monkeypatch.setattr(weights, "safe_open", safe_open)

    fail(FileNotFoundError("No such file or directory"))
    monkeypatch.setattr(weights.os, "access", lambda *_: False)
    with pytest.raises(UserError, match="no permission"):
        load_model(tmp_path)
    fail(ValueError("could not determine the shape of object type 'torch.storage.UntypedStorage'"))
    with pytest.raises(KeyboardInterrupt):
        load_model(tmp_path)
    fail(ValueError("another"))
    with pytest.raises(ValueError, match="another"):
        load_model(tmp_path)


def test_settings_that_ask_for_far_more_are_refused_before_all_of_it_is_made(model, tmp_path):
    save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"blocks": 1000}))
    with pytest.raises(UserError, match="larger model"):
        load_model(tmp_path)
    assert build(SETTINGS).load_state_dict(model.state_dict())  # no limit is left behind
