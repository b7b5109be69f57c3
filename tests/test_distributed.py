"""Two processes against one: same global batch, same noise, so the same gradients and weights."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import TINY_FLAGS, write_images
from safetensors.torch import load_file
from torch.distributed.run import get_args_parser
from two_processes import CASES, weights_after

from rrvqlib import train
from rrvqlib.runs.checkpoint import CHECKPOINT, load_state

HERE = Path(__file__).parent
ROOT = HERE.parent


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(*command):
    return subprocess.run(
        [*LAUNCHER, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What two processes left behind: a folder with a file per case and process."""
    folder = tmp_path_factory.mktemp("both")
    images = write_images(folder / "images.npz")
    done = torchrun(HERE / "two_processes.py", images, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, images


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does(case, both, tmp_path):
    folder, images = both
    first, second = (load_file(folder / f"{case}.{rank}.safetensors") for rank in (0, 1))
    for name in first:
        torch.testing.assert_close(first[name], second[name], equal_nan=True, rtol=0, atol=0)
    alone = weights_after(case, images, tmp_path, spoil_rank=0)
    assert alone.keys() == first.keys()
    assert int(alone["skipped"]) == (case == "nan")
    for name in alone:
        torch.testing.assert_close(
            first[name], alone[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_two_halves_of_a_batch_equal_the_whole(tmp_path):
    images = write_images(tmp_path / "images.npz")
    whole = weights_after("hierarchy", images, tmp_path, spoil_rank=None)
    halves = weights_after("accumulated", images, tmp_path, spoil_rank=None)
    for name in whole:
        torch.testing.assert_close(halves[name], whole[name], rtol=1e-4, atol=1e-5)


def test_a_signal_to_one_process_stops_both_at_one_step(both):
    for rank in (0, 1):
        found = load_file(both[0] / f"stop.{rank}.safetensors")
        assert int(found["code"]) == 143
        assert int(found["step"]) == 2
    assert load_state(both[0] / CHECKPOINT)["progress"]["step"] == 2


@pytest.mark.parametrize("score", ["scored", "unscored"])
def test_a_stopped_training_ends_in_both_processes(score, both):
    folder = both[0]
    assert [(folder / f"{score}.{rank}.txt").read_text() for rank in (0, 1)] == ["143", "143"]
    assert (folder / score / "model.safetensors").exists()
    assert (folder / score / "results.json").exists() == (score == "scored")


def test_the_clock_is_that_of_the_first_process(both):
    first, second = (load_file(both[0] / f"clock.{rank}.safetensors") for rank in (0, 1))
    assert first == second
    assert first["position"] == 100 and first["step"] > 5


def test_a_batch_that_cannot_be_shared_is_refused(both):
    for rank in (0, 1):
        text = (both[0] / f"odd.{rank}.txt").read_text()
        assert "--batch_size 7: must be a multiple of 2 processes" in text


def test_one_process_loads_before_the_other(both):
    # Or both would download into one folder.
    found = [(both[0] / f"turn.{rank}.txt").read_text() for rank in (0, 1)]
    assert found == ["[False]", "[True]"]


def test_torchrun_trains_to_the_end(tmp_path):
    images = write_images(tmp_path / "images.npz")
    out = tmp_path / "run"
    done = torchrun(
        *("-m", "--", "rrvqlib.train", "--run", "photos"),
        *("--dataset", images, "--out", out, *TINY_FLAGS),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    assert done.stdout.count("bits/dim") == 1  # one process speaks
    run = json.loads((out / "run.json").read_text())
    assert run["hardware"]["processes"] == 2 and run["images_seen"] == 12 * 8
    assert json.loads((out / "results.json").read_text())["n_test"] == 12
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


def test_torchrun_takes_the_documented_commands():
    """Without the two dashes torchrun reads --run as an abbreviation of its own --run-path."""
    texts = [(ROOT / "README.md").read_text(), train.EPILOG]
    for notebook in (ROOT / "book").glob("*.ipynb"):
        texts += ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
    texts += [page.read_text() for page in (ROOT / "book").glob("*.md")]
    joined = re.sub(r"\\\n *", "", "\n".join(texts))  # lines that go on
    lines = re.findall(r"^ *torchrun (.+)$", joined, re.M)
    assert len(lines) >= 4
    for line in lines:
        parsed = get_args_parser().parse_args(shlex.split(line))
        assert parsed.module and parsed.training_script == "rrvqlib.train"
        settings = train.make_parser().parse_known_args(parsed.training_script_args)[0]
        assert settings.out
    with pytest.raises(SystemExit):
        get_args_parser().parse_args(["-m", "rrvqlib.train", "--run", "photos"])


def workers(launcher):
    """Process numbers of the processes that a torchrun has started, by rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = process.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            environment = process.joinpath("environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if int(parent) == launcher.pid:
            found |= {int(e[5:]): int(process.name) for e in environment if e[:5] == b"RANK="}
    return found


def told(errors):
    return [line for line in errors.splitlines() if line.startswith("error: ")]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")
def test_when_a_worker_dies_the_other_names_the_remedy_in_one_line(tmp_path):
    images, out = write_images(tmp_path / "images.npz"), tmp_path / "run"
    flags = [*TINY_FLAGS, "--steps", "1000000", "--eval_every", "1000", "--save_every", "10"]
    command = [*LAUNCHER, "-m", "--", "rrvqlib.train", "--dataset", images, "--out", out, *flags]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as launcher:
        try:
            end = time.monotonic() + 300
            while not (out / CHECKPOINT).exists() and launcher.poll() is None:
                assert time.monotonic() < end
                time.sleep(0.05)
            os.kill(workers(launcher)[1], signal.SIGKILL)
            errors = launcher.communicate(timeout=300)[1]
        finally:
            launcher.kill()
    assert launcher.returncode
    (line,) = told(errors)
    assert "another process of this run has died" in line and "--resume" in line
    load_state(out / CHECKPOINT)


def test_what_all_processes_find_wrong_is_said_once(tmp_path):
    images = write_images(tmp_path / "images.npz")
    here = ["--dataset", images, "--out", tmp_path / "run", *TINY_FLAGS, "--batch_size", "7"]
    done = torchrun("-m", "--", "rrvqlib.train", *here)
    assert done.returncode
    (line,) = told(done.stderr)
    assert "multiple of 2 processes" in line
