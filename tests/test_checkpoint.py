"""Files of a run: written whole or not at all, refused when damaged, never unpickled."""

import ast
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import TINY, VQVAE, names
from safetensors.torch import load_file, save_file

import rrvqlib
from rrvqlib import files
from rrvqlib.errors import UserError
from rrvqlib.files import (
    UNFINISHED,
    check_writable,
    only_writer,
    prepare_directory,
    read_json,
    write_atomically,
    write_json,
)
from rrvqlib.models import build, load_model, save_model
from rrvqlib.runs import load_state, save_state
from rrvqlib.settings import changed

STATE = {
    "config": {"lr": 1e-3, "pyramid": [4, 2], "name": "tiny", "ema": None, "on": True},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 7: {"m": torch.arange(6.0)}}},
    "model": {
        "a.weight": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
        "counts": torch.tensor([1, 2, 3]),
        "mask": torch.tensor([True, False]),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "transposed": torch.arange(6.0).view(2, 3).T,
    },
    "best": float("inf"),
    "third": 1 / 3,
}


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)  # whole-number keys stay whole numbers
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert type(one) is type(other) and one == other


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_state(path, STATE)
    return path


def test_a_state_comes_back_as_it_was(saved):
    assert_same(STATE, load_state(saved))


def test_every_truncation_is_refused(saved):
    whole = saved.read_bytes()
    for length in {0, 1, 7, 8, 9, *range(0, len(whole), 97), len(whole) - 1}:
        saved.write_bytes(whole[:length])
        with pytest.raises(UserError, match="delete it and train anew"):
            load_state(saved)


def test_every_flipped_bit_is_refused_or_harmless(saved):
    whole = saved.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    draw, refused = random.Random(0), {"header": 0, "body": 0}
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << draw.randrange(8)
        saved.write_bytes(damaged)
        try:
            state = load_state(saved)
        except UserError:
            refused["header" if position < start else "body"] += 1
        else:
            assert_same(STATE, state)
    assert refused["body"] == len(whole) - start
    assert refused["header"] > 0.9 * start


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), bytes(1000)])
def test_a_foreign_file_is_refused(content, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no checkpoint"):
        load_state(path)


TREES = ["[1]", "3", "{", '{"tensor": "missing"}']


@pytest.mark.parametrize("metadata", [None, {}, *({"tree": tree} for tree in TREES)])
def test_foreign_safetensors_are_refused(metadata, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata)
    with pytest.raises(UserError, match="no checkpoint"):
        load_state(path)


def test_a_folder_in_the_checkpoint_s_place_is_refused(tmp_path):
    with pytest.raises(UserError):
        load_state(tmp_path)
    with pytest.raises(UserError, match="nothing to resume"):
        load_state(tmp_path / "checkpoint.safetensors")


def test_files_can_be_read_by_others_whatever_the_umask(tmp_path):
    old = os.umask(0o077)
    try:
        write_json(tmp_path / "run.json", {})
        save_model(build(TINY.model), tmp_path)
    finally:
        os.umask(old)
    assert names(tmp_path) == ["config.json", "model.safetensors", "run.json"]
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old"))

    def half(temporary):
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    with monkeypatch.context() as m, pytest.raises(UserError, match="file"):
        m.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O")))
        write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from rrvqlib import files

files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(Path(sys.argv[1]), lambda temporary: temporary.write_text("new"))
"""


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old"))
    killed = subprocess.run([sys.executable, "-c", KILLED, path], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    (tmp_path / (UNFINISHED + "model")).mkdir()
    prepare_directory(tmp_path)  # of a command that only adds pictures to a folder
    assert len(list(tmp_path.iterdir())) == 3
    with only_writer(tmp_path):  # the next run clears up
        pass
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("place", ["missing/file", "file/below", "folder"])
def test_a_path_that_cannot_be_written_is_named(place, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(UserError, match=f"{place}.*choose another path"):
        write_atomically(tmp_path / place, lambda temporary: temporary.write_text("new"))


@pytest.mark.parametrize("place", ["missing/file", "file/below", "folder", "/dev/null", "/proc/x"])
def test_a_path_that_cannot_be_written_is_found_before_the_work(place, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{place}.*choose another path"):
        check_writable(tmp_path / place)
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_links_stay_and_devices_are_not_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    for name in ("old", "new"):  # a link to a file, and one that leads nowhere yet
        (tmp_path / name).symlink_to(f"real/{name}.json")
    write_json(tmp_path / "real" / "old.json", 1)
    for name in ("old", "new"):
        write_json(tmp_path / name, 2)
        assert (tmp_path / name).is_symlink() and read_json(tmp_path / "real" / f"{name}.json") == 2
    (tmp_path / "to-device").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    for name in ("to-device", "pipe"):
        with pytest.raises(UserError, match="a folder or a device.*choose another path"):
            write_json(tmp_path / name, 3)
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()


def test_two_writers_of_one_folder_are_one_too_many(tmp_path):
    (tmp_path / (UNFINISHED + "old")).touch()
    with only_writer(tmp_path):
        mine = UNFINISHED + "mine"
        (tmp_path / mine).touch()
        busy = pytest.raises(UserError, match="another training.*choose another --out")
        with busy, only_writer(tmp_path):
            pass
        assert names(tmp_path) == [mine]
    with only_writer(tmp_path):
        assert not names(tmp_path)


HOLDS = """
import sys, time
from pathlib import Path
from rrvqlib.files import only_writer

with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_writer_leaves_no_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another training"), only_writer(tmp_path):
            pass
        other.kill()
    with only_writer(tmp_path):
        pass


@contextmanager
def disk_with_room_for(size):
    """Files longer than `size` bytes cannot be written: the error that a full disk gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


def test_a_full_disk_keeps_the_old_checkpoint(saved):
    with disk_with_room_for(200), pytest.raises(UserError, match="free some disk space"):
        save_state(saved, {**STATE, "best": 0.0})
    assert_same(STATE, load_state(saved))
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("room", [0, 100, 5000])  # config.json does not fit, weights do not fit
def test_a_full_disk_keeps_the_old_model(room, tmp_path):
    model = build(TINY.model)
    save_model(model, tmp_path)
    with disk_with_room_for(room), pytest.raises(UserError, match="free some disk space"):
        save_model(build(TINY.model), tmp_path)
    kept = load_model(tmp_path).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", [{}, VQVAE, {"latent": "gaussian"}])
def test_a_model_is_loaded_as_from_pretrained_does(kind, tmp_path, capsys):
    model = build(changed(TINY, **kind).model)
    save_model(model, tmp_path)
    ours = load_model(tmp_path)
    assert capsys.readouterr().out == ""  # standard output belongs to the commands
    theirs = type(model).from_pretrained(str(tmp_path))
    assert ours.settings == theirs.settings == model.settings and not ours.training
    for name, value in model.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
        assert torch.equal(theirs.state_dict()[name], value)


@pytest.fixture
def model_folder(tmp_path):
    save_model(build(TINY.model), tmp_path)
    return tmp_path


def test_weights_of_another_model_are_refused(model_folder):
    path = model_folder / "model.safetensors"
    tensors = load_file(path)
    first, *others = tensors
    for wrong in (
        {"a": torch.ones(2)},
        {name: tensors[name] for name in others},  # one missing: it would stay random
        {**tensors, "more": torch.ones(2)},
        {**tensors, first: torch.ones(*tensors[first].shape, 2)},
    ):
        save_file(wrong, path)
        with pytest.raises(UserError, match="not of this model"):
            load_model(model_folder)
    save_file({**tensors, first: tensors[first].clone().fill_(float("nan"))}, path)
    with pytest.raises(UserError, match="not of this model.*not finite"):
        load_model(model_folder)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="damaged"):
        load_model(model_folder)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        load_model(model_folder)
    path.mkdir()
    with pytest.raises(UserError, match="damaged"):
        load_model(model_folder)


WRONG = {
    "channels": ["4", 4.0, True, None, 0],
    "init_scale": ["big"],
    "pyramid": [16, "4,2", [4, "2"], [4.5, 2], []],
    "kind": ["cnn", 3],
    "likelihood": ["normal", None, {}],
    "likelihood.kind": ["normal", 3],
    "likelihood.scale_per_channel": [1, "no"],
    "likelihood.components": [5],  # of a mixture alone
    "latent.codebook_size": [[[4]], [0], "4"],
    "latent.covariance": [None],
    "unknown": [1],
    "latent.unknown": [1],
}


@pytest.mark.parametrize(
    ("place", "value"), [(place, value) for place, values in WRONG.items() for value in values]
)
def test_settings_of_the_wrong_kind_are_refused(place, value, model_folder):
    path = model_folder / "config.json"
    settings = json.loads(path.read_text())
    part, _, name = place.rpartition(".")
    (settings[part] if part else settings)[name] = value
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"config\.json does not describe a model"):
        load_model(model_folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "\x00", "[" * 100_000])
def test_a_damaged_config_is_refused(text, model_folder):
    (model_folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(model_folder)
    (model_folder / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match="damaged"):
        load_model(model_folder)


def test_json_without_a_number_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "results.json", {"score": float("nan")})
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="missing"):
        read_json(tmp_path / "results.json")


def unsafe_calls(source):
    """What in a module could run code that a data file brings along."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            yield from {"pickle", "shelve", "marshal", "joblib", "dill"} & set(names)
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            if call in ("torch.load", "eval", "exec", "pickle.load", "pickle.loads"):
                yield call
            if call in ("np.load", "numpy.load"):
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if given.get("allow_pickle") != "False":
                    yield call


def test_nothing_is_ever_unpickled():
    paths = list(Path(rrvqlib.__file__).parent.rglob("*.py"))
    assert len(paths) > 20
    for path in paths:
        assert not list(unsafe_calls(path.read_text())), path
    for bad in ("import pickle", "torch.load(f)", "np.load(f)", "np.load(f, allow_pickle=True)"):
        assert list(unsafe_calls(bad))
