"""The commands: help, what they print, and bad input, which is one line and exit code 2."""

import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import TINY_FLAGS, names, write_images
from PIL import Image

from rrvqlib import cli, compress, data, diagnose, evaluate, reconstruct, sample, train
from rrvqlib.errors import UserError
from rrvqlib.files import only_writer
from rrvqlib.runs import RUNS, scoring
from rrvqlib.runs.checkpoint import CHECKPOINT
from rrvqlib.runs.folder import check_same_images
from rrvqlib.settings import RunSettings
from rrvqlib.settings.flat import places

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "sample": sample,
    "reconstruct": reconstruct,
    "diagnose": diagnose,
    "compress": compress,
}
PLACES = places(RunSettings)
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def call(command, *argv):
    cli.run(command.main, [str(a) for a in argv])


@pytest.fixture
def refused(capsys):
    """Call a command that must fail; returns its one line."""

    def check(command, *argv, mentions=()):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            call(command, *argv)
        out, err = capsys.readouterr()
        assert exit_.value.code == 2
        lines = err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        assert out == ""
        for text in (mentions,) if isinstance(mentions, str) else mentions:
            assert text in lines[0], lines[0]
        return lines[0]

    return check


def contents(folder):
    """The same, with what is in them."""
    paths = (folder / name for name in names(folder))
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run's folder and its data, never changed."""
    folder = tmp_path_factory.mktemp("finished")
    images = write_images(folder / "images.npz")
    call(train, "--dataset", images, "--out", folder / "run", *TINY_FLAGS)
    return folder / "run", images


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(finished[0], tmp_path / "run")


# Help.


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_quick_and_does_not_import_torch(name):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['command', '--help']\n"
        "try:\n"
        f"    runpy.run_module('rrvqlib.{name}', run_name='__main__')\n"
        "except SystemExit as exit:\n"
        "    assert not exit.code\n"
        "heavy = {'torch', 'numpy', 'huggingface_hub'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    # Of the processor, so that a busy machine does not fail the test.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_help_names_every_setting_and_every_run():
    text = train.make_parser().format_help()
    for name, place in PLACES.items():
        assert f"--{name} " in text
        assert " ".join(place.help.split()[:3]) in " ".join(text.split())
    for name, run in RUNS.items():
        assert name in text and run.cost in text and run.expect in text


def test_flags_are_parsed_to_their_fields_types():
    line = "--pyramid 16*2,8 --lr 1e-2 --steps 7 --compile yes --dataset npz:a.npz --latent binary"
    args = train.make_parser().parse_args(line.split())
    assert cli.read_settings(args, RunSettings) == {
        "pyramid": (16, 16, 8),
        "lr": 0.01,
        "steps": 7,
        "compile": True,
        "dataset": "npz:a.npz",
        "latent": "binary",
    }


# What the commands do when nothing is wrong.


def test_dry_run_prints_what_a_run_costs(capsys):
    call(train, "--dry-run", *TINY_FLAGS)
    out = capsys.readouterr().out
    for label in ("parameters", "FLOPs", "memory", "time here", "latents"):
        assert label in out


def test_evaluate_prints_json_that_agrees_with_the_run(finished, capsys):
    call(evaluate, finished[0], "--json", "--iw_k", 2, "--iw_images", 4, "--device", "cpu")
    printed = json.loads(capsys.readouterr().out)
    results = json.loads((finished[0] / "results.json").read_text())
    # Same seed and data; the batches differ, and with them the draws.
    assert printed["bits_per_dim"] == pytest.approx(results["test_bits_per_dim"], abs=0.2)
    assert len(printed["kl_bits_per_dim"]) == len(printed["perplexity"]) == 2
    assert printed["n"] == 12 and printed["iw_k"] == 2 and printed["iw_n"] == 4
    call(evaluate, finished[0], "--split", "train", "--limit", 5)
    text = capsys.readouterr().out
    assert "train" in text and "5 images" in text and "standard error" in text


def test_sample_reconstruct_and_diagnose(finished, tmp_path, capsys):
    folder = finished[0]
    call(sample, folder, "--n", 5, "--temperature", 0, "--out", tmp_path / "s.png")
    assert Image.open(tmp_path / "s.png").size == (28, 18)
    call(reconstruct, folder, "--n", 3, "--split", "valid", "--out", tmp_path / "r.png")
    assert Image.open(tmp_path / "r.png").size == (78, 8)
    capsys.readouterr()
    call(diagnose, folder)
    assert capsys.readouterr().out.startswith("step 12: ")


def test_images_that_are_left_out_are_told(tmp_path, capsys):
    for number in range(20):
        split = tmp_path / "set" / ("Train", "Test")[number % 2]
        split.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(split / f"{number}.png")
    (tmp_path / "set" / "loose.png").touch()
    (tmp_path / "set" / "Train" / "gone.png").symlink_to("nowhere.png")
    here = ("--dataset", f"folder:{tmp_path / 'set'}")
    told = "folder:set: left out 1 x link that leads nowhere, 1 x image beside the folders\n"
    call(train, *TINY_FLAGS, *here, "--out", tmp_path / "run")
    assert capsys.readouterr().err == told
    for more in ((), here):
        call(evaluate, tmp_path / "run", *more)
        assert capsys.readouterr().err == told


def test_one_is_told_as_one(finished, tmp_path, capsys):
    folder = finished[0]
    call(sample, folder, "--n", 1, "--out", tmp_path / "s.png")
    call(reconstruct, folder, "--n", 1, "--out", tmp_path / "r.png")
    call(evaluate, folder, "--limit", 1, "--iw_k", 1)
    out = capsys.readouterr().out
    for told in ("s.png: 1 sample\n", "1 pair from", ", 1 image)", "1 sample, first 1 image;"):
        assert told in out, out


def test_a_moved_run_finds_moved_data_by_flag(run_folder, tmp_path, refused):
    images = write_images(tmp_path / "elsewhere.npz")
    (run_folder / "run.json").unlink()
    refused(evaluate, run_folder, mentions=("run.json", "missing"))
    call(evaluate, run_folder, "--dataset", images, "--limit", 2)


def test_data_lie_where_training_found_them(run_folder, refused):
    """Without --data_dir the run's own holds."""
    path = run_folder / "run.json"
    description = json.loads(path.read_text())
    description["settings"]["data"] |= {"dataset": "cifar10", "data_dir": str(run_folder / "mine")}
    path.write_text(json.dumps(description))
    config = json.loads((run_folder / "config.json").read_text())
    assert config["image_size"] == 8  # refused before anything is downloaded
    refused(evaluate, run_folder, mentions="cifar10")


# Bad input.

HUGE = "1" + 22 * "0"
# Setting -> values out of range; behind "with", what it plays a part beside.
OUT_OF_RANGE = {
    "image_size": "0 -8 1",
    "image_channels": "0 2 4",
    "classes": "-1 1 100001",
    "pyramid": "0 5 4,8 16,-8",
    "groups": "0 -1 65537 3 4.0",
    "codebook_size": f"0 -1 4,4,4 {HUGE}",
    "embedding_dim": "0",
    "channels": "0 -3",
    "blocks": "0",
    "ladder_blocks": "-1",
    "init_scale": "0 -1 nan inf",
    "commitment": "-1 nan with --latent nearest",
    "codebook_decay": "0 1 -0.5 with --latent nearest",
    "dead_code_threshold": "-0.1 with --latent nearest",
    "stages": "0 -1 1001 with --latent residual",
    "levels": "1 0 -8 8,1 300,300 with --latent scalar",
    "components": "0 -1 with --likelihood mixture",
    "num_samples": f"1 0 {HUGE} with --model one-layer --pyramid 16 --objective vimco",
    "prior_channels": "0 with --model one-layer --pyramid 16 --second_stage pixelcnn",
    "prior_blocks": "0 -1 with --model one-layer --pyramid 16 --second_stage pixelcnn",
    "seed": "-1 99999999999",
    "batch_size": f"0 -8 {HUGE}",
    "codebook_lr_factor": "0 nan",
    "max_grad_norm": "-1 nan",
    "grad_skip_factor": "-1 inf",
    "max_skipped": "0",
    "ema_decay": "-0.1 1 2",
    "free_nats": "-1 nan 1e300",
    "steps": "0 -1",
    "seconds": "-1 nan inf",
    "lr": "0 -1e-3 nan inf 1e300",
    "lr_warmup": "-1",
    "lr_min": "-1 1 nan",
    "plateau_patience": "0",
    "temperature": "0 -1 nan",
    "temperature_end": "0 2",
    "temperature_fraction": "-0.1 1.5",
    "kl_warmup": "-1 1.01",
    "eval_every": "0",
    "eval_images": "-1",
    "save_every": "0",
    "iw_k": "-1",
    "iw_images": "-1",
    "grad_accumulation": "0 -1",
    "shard_mb": "0 -5",
}
PARSED = [name for name, place in PLACES.items() if not place.choices and place.type is not str]
NUMBERS = [name for name in PARSED if PLACES[name].type is not bool]
CHOICES = [name for name, place in PLACES.items() if place.choices]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_setting_out_of_range_is_refused(name, refused):
    values, _, beside = OUT_OF_RANGE[name].partition(" with ")  # a new one needs a row there
    for value in values.split():
        line = refused(train, f"--{name}={value}", *beside.split(), mentions=": must ")
        assert line.startswith((f"error: --{name} ", "error: --lr_min ", "error: --pyramid "))


def test_no_row_of_these_is_left_over():
    assert OUT_OF_RANGE.keys() == set(NUMBERS)


@pytest.mark.parametrize("name", CHOICES)
def test_every_other_choice_is_refused(name, refused):
    beside = ("--latent", "nearest") if name == "codebook_update" else ()
    refused(train, f"--{name}", "nonsense", *beside, mentions=(f"--{name} nonsense", "must be one"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--batch_size 8 --grad_accumulation 3", "--batch_size 8: must be a multiple of"),
        ("--cuda_graphs true --grad_accumulation 2", "--cuda_graphs true: must be auto or false"),
        ("--model one-layer --latent nearest", "--pyramid 16*2,8,4: must have one side"),
        ("--network mlp", "--network mlp: plays no part in a hierarchy"),
        ("--codebook_size 4,4", "--codebook_size 4*2: must be one number, or one for each"),
        ("--latent gaussian --codebook_size 4", "--codebook_size 4: plays no part with latent"),
        ("--commitment 0.5", "--commitment 0.5: plays no part with latent relaxed; leave it out"),
        ("--plateau_patience 3", "--plateau_patience 3: plays no part with schedule cosine"),
        ("--objective vimco", "--objective vimco: must be elbo"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(line, says, refused):
    refused(train, *line.split(), mentions=says)


@pytest.mark.parametrize("name", PARSED)
def test_values_that_cannot_be_parsed_are_refused(name, refused):
    for value in ("abc", "", "1..2"):
        refused(train, f"--{name}", value, mentions=f"--{name} {value}: must be ")


def test_limits_are_written_for_people(refused):
    refused(
        train, "--seed", 2**24, mentions="--seed 16777216: must be at least 0, below 16,777,216"
    )
    refused(
        train, "--steps", 10**20, mentions="must be a smaller number: 9,223,372,036,854,775,807"
    )
    refused(
        train, "--free_nats", "1e300", mentions="must be a smaller number: 3e+38 is the largest"
    )
    refused(train, "--lr", "nan", mentions="must be a finite number")


def test_an_empty_path_is_not_the_folder_at_hand(refused, finished, tmp_path, monkeypatch):
    """What a shell makes of a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    for flag in ("--out", "--dataset", "--data_dir", "--start_from"):
        refused(train, *TINY_FLAGS, "--out", "x", flag, "", mentions=f"{flag} is empty")
    for command in (evaluate, reconstruct):
        for flag in ("--dataset", "--data_dir"):
            refused(command, finished[0], flag, "", mentions=f"{flag} is empty")
    for command in (sample, reconstruct):
        refused(command, finished[0], "--out", "", mentions="--out is empty")
    for command in (evaluate, sample, reconstruct, diagnose):
        refused(command, "", mentions="DIR is empty")
    for line in (
        ("encode", "", "a.png", "--out", "x"),
        ("encode", "photos", "", "--out", "x"),
        ("encode", "photos", "a.png", "--out", ""),
        ("decode", "photos", ""),
        ("decode", "photos", "x", "--out", ""),
    ):
        refused(compress, *line, mentions="is empty; give a path")
    assert not list(tmp_path.iterdir())


def test_a_whole_number_is_written_as_one(refused):
    refused(train, "--steps", "1e3", mentions="a whole number")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_argparse_s_own_errors_have_the_same_exit_code(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        call(command, "--no-such-flag", "3")
    assert exit_.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_unknown_run_and_missing_out_are_refused(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(train, "--run", "imagenet", mentions=("imagenet", "photos"))
    refused(train, *TINY_FLAGS, mentions="--out")
    assert not list(tmp_path.iterdir())


def test_bad_data_are_refused(refused, tmp_path):
    images = write_images(tmp_path / "images.npz")
    whole = (tmp_path / "images.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("not numpy")
    np.savez(tmp_path / "objects.npz", train_images=np.array([{}], dtype=object))
    out = ("--out", tmp_path / "out")
    bad = [f"npz:{tmp_path}/{name}.npz" for name in ("none", "cut", "text", "objects")]
    bad += ["mnist", "npz:", f"npz:{tmp_path}", "npz:~nobody-of-this-name/x"]
    for dataset in (*bad, "folder:", f"folder:{tmp_path}/none"):
        refused(train, *TINY_FLAGS, "--dataset", dataset, *out)
    wrong_size = [*TINY_FLAGS, "--dataset", images, "--image_size", "16"]
    refused(train, *wrong_size, *out, mentions=("8x8", "16"))
    refused(train, *TINY_FLAGS, "--dataset", "cifar10", *out, mentions="32")
    refused(train, *wrong_size, "--out", tmp_path / "out" / "deep", mentions="8x8")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    refused(train, *wrong_size, "--out", tmp_path / "mine", mentions="8x8")
    assert not list((tmp_path / "mine").iterdir())


def test_a_dry_run_looks_at_its_data_and_folders(refused, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("not numpy")
    np.savez("objects.npz", train_images=np.array([{}], dtype=object))
    np.savez("floats.npz", train_images=np.zeros((3, 8, 8, 3)), test_images=np.zeros((3, 8, 8, 3)))
    np.savez("lacks.npz", train_images=np.zeros((3, 8, 8, 3), np.uint8))
    dry = [*TINY_FLAGS, "--dry-run"]
    for dataset, says in (
        ("folder:nosuch", "check the path"),
        ("folder:empty", "holds no image"),
        ("npz:nosuch.npz", "check the path"),
        ("npz:text.npz", "undamaged NumPy .npz file"),
        ("npz:objects.npz", "pickled objects"),
        ("npz:floats.npz", "numpy.uint8"),
        ("npz:lacks.npz", "no array test_images"),
        (finished[1].replace("images.npz", "none.npz"), "check the path"),
        ("celeba", "64x64"),
        ("svhn", "32x32"),
    ):
        refused(train, *dry, "--dataset", dataset, mentions=says)
    refused(train, *dry, "--image_size", 128, mentions="image_size 32 or 64")
    good = [*dry, "--dataset", finished[1]]
    refused(train, *good, "--image_size", 16, mentions="8x8")
    refused(train, *good, "--start_from", "nosuch", mentions="no folder nosuch")
    other = ("--start_from", finished[0], "--channels", 6)
    refused(train, *good, *other, mentions="--channels 4")
    refused(train, *good, "--out", finished[0], mentions="--resume")
    refused(train, *good, "--out", "text.npz", mentions="choose another --out")
    before = sorted(tmp_path.iterdir())
    for more in (("--out", "new"), ("--out", finished[0], "--resume")):
        call(train, *good, "--start_from", finished[0], *more)
    assert before == sorted(tmp_path.iterdir())


def test_paths_that_cannot_be_written_are_refused(refused, finished, tmp_path):
    (tmp_path / "file").write_text("precious")
    here = [*TINY_FLAGS, "--dataset", finished[1]]
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/dev/null/x", "/proc/x"):
        refused(train, *here, "--out", place, mentions=(str(place), "choose another"))
    for place in (tmp_path / "none" / "s.png", tmp_path / "file" / "s.png", tmp_path):
        mentions = (str(place), "choose another")
        for command in (sample, reconstruct):
            refused(command, finished[0], "--n", 1, "--out", place, mentions=mentions)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_without_permission_is_refused(refused, finished, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    try:
        (locked / "probe").touch()
        pytest.skip("this user may write everywhere")
    except PermissionError:
        pass
    refused(train, *TINY_FLAGS, "--out", locked, mentions=(str(locked), "choose another --out"))
    refused(train, *TINY_FLAGS, "--out", locked / "run", mentions="choose another --out")


def test_a_run_is_not_overwritten(refused, run_folder, finished):
    here = [*TINY_FLAGS, "--dataset", finished[1], "--out", run_folder]
    before = contents(run_folder)
    refused(train, *here, mentions=("--resume", "another --out"))
    (run_folder / CHECKPOINT).unlink()  # as in a published folder
    assert "--resume" not in refused(train, *here, mentions=("another --out"))
    refused(train, *here, "--resume", mentions=("nothing to resume",))
    del before[CHECKPOINT]
    assert before == contents(run_folder)


@pytest.mark.parametrize(
    "name",
    "config.json samples.png reconstructions.png metrics.jsonl run.json model.safetensors"
    " model-00001-of-00002.safetensors model.safetensors.index.json".split(),
)
def test_a_user_s_own_files_are_not_overwritten(name, refused, finished, tmp_path):
    (tmp_path / name).write_text('{"precious": 1}')
    here = [*TINY_FLAGS, "--dataset", finished[1], "--out", tmp_path]
    line = refused(train, *here, mentions=(name, "choose another --out"))
    assert "--resume" not in line  # there is nothing to resume
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == '{"precious": 1}'


def test_a_run_killed_before_its_first_checkpoint_may_start_anew(finished, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in ("run.json", "metrics.jsonl"):
        shutil.copy(finished[0] / name, out)
    call(train, *TINY_FLAGS, "--dataset", finished[1], "--out", out)
    assert (out / "results.json").exists()


def test_a_run_does_not_lie_among_its_images(refused, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "set")
    for number in range(10):
        (tmp_path / "set" / "class").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "set" / "class" / f"{number}.png")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path / "set")
    for images, out in (
        (".", "run"),
        (".", "."),
        (tmp_path / "link", "class/deep/run"),
        (tmp_path / "set", "../link/run"),
    ):
        here = [*TINY_FLAGS, "--dataset", f"folder:{images}", "--out", out]
        refused(train, *here, mentions=(f"--out {out}", "choose another --out"))
    assert before == sorted(tmp_path.rglob("*"))


def test_two_trainings_do_not_share_a_folder(refused, finished, tmp_path):
    here = [*TINY_FLAGS, "--dataset", finished[1], "--out", tmp_path]
    with only_writer(tmp_path):
        for more in ((), ("--resume",)):
            refused(train, *here, *more, mentions=("another training", "choose another --out"))
    assert not names(tmp_path)


@pytest.mark.parametrize("command", [sample, reconstruct, compress], ids=lambda c: c.__name__)
def test_a_bad_out_is_found_before_the_work(command, refused, finished, tmp_path, monkeypatch):
    def work(*_):
        raise AssertionError("too late")

    monkeypatch.setattr("rrvqlib.models.saved.load_model", work)
    monkeypatch.setattr("rrvqlib.runs.folder.load_model", work)
    argv = ["encode", finished[0], "a.png"] if command is compress else [finished[0]]
    for out in (tmp_path / "none" / "x.png", tmp_path, "/dev/null"):
        refused(command, *argv, "--out", out, mentions=(str(out), "choose"))
    if command is not compress:
        refused(command, *argv, "--out", tmp_path / "x.jpg", mentions="ends in .png")


def test_resume_needs_the_run_s_own_settings_and_data(refused, run_folder, finished, tmp_path):
    here = [*TINY_FLAGS, "--out", run_folder, "--resume"]
    refused(train, *here, "--dataset", finished[1], "--lr", "1e-3", mentions=("--lr 0.001", "0.00"))
    other = write_images(tmp_path / "other.npz")
    refused(train, *here, "--dataset", other, mentions=("--dataset", "images.npz"))
    call(train, *here, "--dataset", finished[1])  # finished: nothing to do
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.safetensors").touch()
    here = [*TINY_FLAGS, "--out", tmp_path / "new", "--resume", "--dataset", finished[1]]
    refused(train, *here, mentions="nothing to resume")


def test_a_damaged_run_folder_is_refused(refused, run_folder, finished):
    resume = [*TINY_FLAGS, "--dataset", finished[1], "--out", run_folder, "--resume"]
    whole = contents(run_folder)

    def damaged(name, content, *commands):
        (run_folder / name).write_bytes(content)
        for command, *argv in commands:
            refused(command, *argv, mentions=name)
        (run_folder / name).write_bytes(whole[name])

    readers = [(c, run_folder) for c in (evaluate, sample, reconstruct)]
    cut = {name: content[: len(content) // 2] for name, content in whole.items()}
    flipped = bytearray(whole[CHECKPOINT])
    flipped[-5] ^= 4
    damaged(CHECKPOINT, bytes(flipped), (train, *resume))
    damaged(CHECKPOINT, cut[CHECKPOINT], (train, *resume))
    damaged(CHECKPOINT, whole["model.safetensors"], (train, *resume))
    damaged("model.safetensors", cut["model.safetensors"], *readers)
    damaged("model.safetensors", whole[CHECKPOINT], *readers)
    damaged("config.json", b'{"channels": "four"}', *readers)
    damaged("config.json", b'{"latent": {"kind": "codebook"}}', *readers)
    damaged("config.json", cut["config.json"], *readers)
    settings = [3, {"steps": 9}, {"schedule": {"steps": "x"}}, {"model": {"latent": 3}}]
    others = [json.dumps({"settings": value}).encode() for value in settings]
    for content in (b"[]", b"{}", *others, cut["run.json"]):
        damaged("run.json", content, (evaluate, run_folder), (diagnose, run_folder))
    line = json.loads(whole["metrics.jsonl"].splitlines()[-1])
    bits = "kl_bits_per_dim"
    for wrong in ({bits: [1.0]}, {bits: [1.0, None]}, {"perplexity": [1.0]}):
        damaged("metrics.jsonl", json.dumps(line | wrong).encode(), (diagnose, run_folder))
    for content in (b"{", b"{}\n", b"3\n", b"\xff\n", b'{"step": "x"}\n', cut["metrics.jsonl"]):
        damaged("metrics.jsonl", content, (diagnose, run_folder))
    (run_folder / "metrics.jsonl").write_text("")
    refused(diagnose, run_folder, mentions="no evaluation yet")
    (run_folder / "metrics.jsonl").write_bytes(whole["metrics.jsonl"])
    for name in ("config.json", "model.safetensors"):
        (run_folder / name).unlink()
        for command, *argv in readers:
            refused(command, *argv, mentions=(name, "missing"))
        (run_folder / name).write_bytes(whole[name])
    call(train, *resume)  # nothing was lost


def test_a_file_in_place_of_a_run_folder_is_named_as_such(refused, finished):
    file = finished[0] / "samples.png"
    for command in (evaluate, sample, reconstruct, diagnose):
        said = refused(command, file, mentions=("Not a directory", "name the folder of a run"))
        assert "delete" not in said and "damaged" not in said


def test_data_that_are_gone_or_others_are_told_from_the_run_s(run_folder, refused, tmp_path):
    path = run_folder / "run.json"
    description = json.loads(path.read_text())
    for images in ("npz:gone.npz", write_images(tmp_path / "other.npz", test=5)):
        description["settings"]["data"]["dataset"] = images
        path.write_text(json.dumps(description))
        for command in (evaluate, reconstruct):
            refused(command, run_folder, mentions=(images, "--dataset"))
    call(evaluate, run_folder, "--dataset", images)  # asked for


def test_readers_refuse_wrong_values(refused, finished, tmp_path):
    folder = finished[0]
    for line in (
        "--batch_size 0",
        "--limit -1",
        "--iw_k -1",
        "--iw_images 0 --iw_k 2",
        "--iw_images 7",
        "--seed -1",
        f"--seed {2**70}",
    ):
        refused(evaluate, folder, *line.split(), mentions=line.split()[0])
    refused(evaluate, folder, "--dataset", "mnist", mentions="mnist")
    temperatures = [("--temperature", value) for value in (-1, "nan", "inf")]
    for argv in (("--n", 0), ("--n", -3), *temperatures, ("--seed", -1)):
        refused(sample, folder, *argv, "--out", tmp_path / "s.png", mentions=argv[0])
    refused(reconstruct, folder, "--n", 0, mentions="--n")
    for command in (evaluate, sample, reconstruct, diagnose):
        refused(command, tmp_path / "none", mentions=("missing", "folder of a run"))
    large = write_images(tmp_path / "large.npz", side=16)
    for command in (evaluate, reconstruct):
        refused(command, folder, "--dataset", large, mentions="16x16")
    assert not (tmp_path / "s.png").exists()


@no_gpu
def test_a_gpu_that_is_not_there_is_refused(refused, finished, tmp_path):
    out = ("--out", tmp_path / "out")
    here = [*TINY_FLAGS, "--dataset", finished[1], "--device", "cuda"]
    refused(train, *here, *out, mentions="--device cpu")
    refused(train, *here, "--dry-run", mentions="--device cpu")
    for command in (evaluate, sample, reconstruct):
        refused(command, finished[0], "--device", "cuda", mentions="--device cpu")


def test_ctrl_c_outside_the_loop_is_no_traceback(capsys):
    def main(_):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    assert exit_.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_errors_of_the_program_keep_their_traceback():
    def main(_):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        cli.run(main)


def test_what_no_memory_holds_is_refused(refused):
    refused(train, *TINY_FLAGS, "--channels", 65536, "--dry-run", mentions="not enough memory")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_running_out_of_memory_is_no_traceback(error, capsys):
    def main(_):
        raise error

    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    assert exit_.value.code == 2 and "not enough memory; take" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a bug", "unsupported memory format", "illegal memory access"])
def test_other_runtime_errors_keep_their_traceback(text):
    def main(_):
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match=text):
        cli.run(main)


# Begins when the reader has left, if standard output is a pipe.
PRINTS = """
import select, stat, os, sys
from rrvqlib import cli
if stat.S_ISFIFO(os.fstat(1).st_mode):
    reader = select.poll()
    reader.register(1, select.POLLERR)
    while not any(events & select.POLLERR for _, events in reader.poll()):
        pass
cli.run(lambda _: print("x" * int(sys.argv[1])))
"""


@pytest.mark.parametrize("length", [10, 100_000])  # fits the buffer, does not
@pytest.mark.parametrize(("to", "code", "says"), [("| true", 141, ""), ("> /dev/full", 2, "error")])
def test_output_that_goes_nowhere_is_no_traceback(to, code, says, length):
    command = f'"$0" -c "$1" {length} {to}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, PRINTS], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(says) and len(done.stderr.splitlines()) == bool(says)


def test_a_closed_standard_error_stops_no_command(finished):
    command = f'"$0" -m rrvqlib.evaluate {finished[0]} --limit 2 --device cpu 2>&-'
    environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
    done = subprocess.run(
        ["bash", "-c", command, sys.executable], stdout=subprocess.PIPE, env=environment
    )
    assert done.returncode == 0 and b"bits/dim" in done.stdout


def test_resume_begins_where_there_is_nothing_yet(finished, tmp_path, capsys):
    """So that one command in a loop comes to the end, killed in its first second or later."""
    here = [*TINY_FLAGS, "--dataset", finished[1], "--out", tmp_path / "new", "--resume"]
    call(train, *here)
    assert "starting at step 0" in capsys.readouterr().err
    first = (tmp_path / "new" / "results.json").read_text()
    (tmp_path / "new" / CHECKPOINT).unlink()
    finishing = "results.json config.json model.safetensors samples.png reconstructions.png"
    for name in finishing.split():
        (tmp_path / "new" / name).unlink()
    call(train, *here)  # run.json and metrics.jsonl alone: killed before the first checkpoint
    assert (tmp_path / "new" / "results.json").read_text() == first


def test_pictures_that_exist_are_kept_without_force(refused, finished, tmp_path):
    out = tmp_path / "holiday.png"
    out.write_bytes(b"precious")
    for command in (sample, reconstruct):
        refused(command, finished[0], "--n", 2, "--out", out, mentions=("exists", "--force"))
        assert out.read_bytes() == b"precious"
    call(sample, finished[0], "--n", 2, "--out", out, "--force")
    assert out.read_bytes() != b"precious"


def test_force_replaces_nothing_that_the_command_reads(refused, run_folder, tmp_path):
    folder = tmp_path / "images"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for n in range(10):
            picture = np.full((8, 8, 3), 20 * n, np.uint8)
            Image.fromarray(picture).save(folder / split / f"{n}.png")
    mine, link = folder / "train" / "3.png", tmp_path / "link.png"
    link.symlink_to(run_folder / "model.safetensors")
    before, weights = mine.read_bytes(), (run_folder / "model.safetensors").read_bytes()
    for command in (sample, reconstruct):
        refused(command, run_folder, "--out", link, "--force", mentions=str(run_folder))
    data = ("--dataset", f"folder:{folder}")
    refused(reconstruct, run_folder, *data, "--out", mine, "--force", mentions=str(folder))
    assert mine.read_bytes() == before
    assert (run_folder / "model.safetensors").read_bytes() == weights
    call(sample, run_folder, "--n", 2, "--out", run_folder / "samples.png", "--force")
    call(reconstruct, run_folder, *data, "--n", 2, "--out", tmp_path / "new.png")


def test_a_run_that_still_trains_has_no_model_yet(refused, run_folder):
    for name in ("config.json", "results.json"):
        (run_folder / name).unlink()
    for command in (evaluate, sample, reconstruct):
        refused(command, run_folder, mentions=("config.json", "not come to its end", "--resume"))


def test_messages_name_what_the_command_has(refused, run_folder, finished, tmp_path):
    refused(sample, run_folder, "--temperature", "inf", mentions="0 or more, and finite")
    larger = write_images(tmp_path / "larger.npz", side=16)
    said = refused(evaluate, run_folder, "--dataset", larger, mentions=("16x16", "8x8"))
    assert "pass image_size" not in said
    (tmp_path / "file").write_text("precious")
    refused(train, "--out", tmp_path / "file", mentions=("is no folder", "choose another"))
    config = json.loads((run_folder / "config.json").read_text())
    config["pyramid"] = [4] * 100_000 + [3]
    (run_folder / "config.json").write_text(json.dumps(config))
    assert len(refused(sample, run_folder, mentions="pyramid")) < 500
    (run_folder / "run.json").unlink()
    refused(evaluate, finished[0] / "none", mentions="is missing")


@pytest.mark.parametrize("flag", ["--help", "--version"])
@pytest.mark.parametrize(("to", "code"), [("| true", 141), ("> /dev/full", 2)])
def test_the_help_of_all_commands_goes_nowhere_without_a_traceback(flag, to, code):
    command = f'"$0" -m rrvqlib {flag} {to}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command, sys.executable], capture_output=True, text=True)
    assert done.returncode in (
        code,
        0 if code == 141 else code,
    )  # it may be read before `true` ends
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("n", [10**23, 10_001])
def test_absurd_numbers_are_refused_with_a_reason(n, refused, finished, tmp_path):
    out = ("--out", tmp_path / "x.png")
    refused(sample, finished[0], "--n", n, *out, mentions=("--n", "at most"))
    refused(reconstruct, finished[0], "--n", n, *out, mentions=("--n", "at most"))
    for flag in ("--iw_k", "--batch_size", "--limit"):
        refused(evaluate, finished[0], flag, n * 10**6, mentions=(flag, "at most"))
    settings = {"--blocks": n, "--pyramid": f"4*{n}", "--lr": 1e38, "--image_size": n}
    for flag, value in (settings | {"--channels": n * 10, "--codebook_size": n * 10}).items():
        refused(train, *TINY_FLAGS, flag, value, "--out", tmp_path / "r", mentions=flag)


def test_a_run_that_learnt_nothing_fails(refused, finished, tmp_path):
    cold = ("--temperature", "1e-40", "--temperature_end", "1e-40")
    here = [*TINY_FLAGS, "--dataset", finished[1], "--out", tmp_path / "r", *cold]
    refused(train, *here, mentions=("steps were skipped", "nothing was learnt"))
    assert not (tmp_path / "r" / "results.json").exists()


def test_other_pixels_under_the_same_name_are_noticed(run_folder, finished, tmp_path):
    path = finished[1].removeprefix("npz:")
    arrays = dict(np.load(path, allow_pickle=False))
    moved = tmp_path / "images.npz"
    np.savez(moved, **{name: 255 - images for name, images in arrays.items()})
    check_same_images(run_folder, finished[1], data.load(finished[1]))
    with pytest.raises(UserError, match="other pixels"):
        check_same_images(run_folder, f"npz:{moved}", data.load(f"npz:{moved}"))


def test_a_score_that_is_no_number_is_an_error(refused, finished, monkeypatch):
    real = scoring.score
    wrong = {"bits_per_dim": float("nan")}
    monkeypatch.setattr(scoring, "score", lambda *args, **named: real(*args, **named) | wrong)
    refused(evaluate, finished[0], "--json", mentions=("bits_per_dim", "not a number"))


def test_the_standard_error_of_one_image_is_unknown(finished, tmp_path, capsys):
    call(evaluate, finished[0], "--limit", 1, "--iw_k", 2)
    assert capsys.readouterr().out.count("standard error unknown") == 2
    call(evaluate, finished[0], "--limit", 1, "--iw_k", 2, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["bits_per_dim_se"] is None and found["iw_bits_per_dim_se"] is None
    one = write_images(tmp_path / "one.npz", train=10, test=1)
    call(train, "--dataset", one, "--out", tmp_path / "one", *TINY_FLAGS)
    assert "standard error unknown, 1 image)" in capsys.readouterr().out
    call(diagnose, tmp_path / "one")  # 1 image for validation, too


def test_infinite_scores_are_an_error_too(refused, finished, monkeypatch):
    real = scoring.score
    for wrong in ({"bits_per_dim": float("inf")}, {"kl_bits_per_dim": [0.1, float("nan")]}):
        monkeypatch.setattr(
            scoring, "score", lambda *args, w=wrong, **named: real(*args, **named) | w
        )
        refused(evaluate, finished[0], "--json", mentions=(*wrong, "not a number"))
        monkeypatch.undo()


def test_names_that_a_terminal_would_obey_or_cannot_show_are_spelled_out(tmp_path):
    code = (
        "from rrvqlib import cli; from rrvqlib.errors import UserError\n"
        "def main(_):\n"
        "    cli.say('\\x1b[2J\\udc80 é')\n"
        "    print('\\udc80')\n"
        "    raise UserError('bad\\x1b[31m\\u202e name\\nline')\n"
        "cli.run(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=300,
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert done.stdout.split() == rb"\x1b[2J\udc80 \xe9 \udc80".split()
    assert done.stderr.strip() == rb"error: bad\x1b[31m\u202e name line"
