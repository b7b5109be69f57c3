"""Every touch of the disk in turn finds it full, or is a process's last: nothing is lost."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY_FLAGS, write_images
from PIL import Image
from safetensors.torch import load_file

from rrvqlib import cli, compress, reconstruct, sample, train
from rrvqlib.files import UNFINISHED
from rrvqlib.runs.checkpoint import CHECKPOINT, load_state

SHORT = [*TINY_FLAGS, *"--steps 2 --eval_every 2 --save_every 1 --iw_images 0".split()]
# What Python says before it touches the disk, and the place of the path.
TOUCHES = {"open": 0, "os.mkdir": 0, "os.rename": 1, "fsync": 0}


class Disk:
    """Counts how often Python is about to make, write or rename a file below a folder.

    Attributes:
        folder: where it counts; None for nowhere.
        touched: what has been touched so far, and how.
        last: the number of the first touch that fails.
        fail: how that, and what comes after it, fails.
    """

    folder = None

    def watch(self, folder, last=None, fail=None):
        self.folder, self.last, self.fail, self.touched = str(folder), last, fail, []

    def hook(self, event, args):
        if self.folder is None or event not in TOUCHES or isinstance(args[TOUCHES[event]], int):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = os.fsdecode(args[TOUCHES[event]])
        if path.startswith(self.folder):
            self.touched.append((event, path))
            if self.last and len(self.touched) >= self.last:
                self.fail(path)


disk = Disk()
sys.addaudithook(disk.hook)


def full(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def kill(_path):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(autouse=True)
def counted_fsync(monkeypatch):
    watch_fsync(monkeypatch.setattr)


def watch_fsync(setattr_):
    fsync = os.fsync

    def counted(descriptor):
        if disk.folder and disk.last == len(disk.touched) + 1:  # half of it has arrived
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        disk.hook("fsync", (disk.folder,))
        fsync(descriptor)

    setattr_(os, "fsync", counted)


def call(command, *argv):
    """The exit code of a command, after which the disk is watched no longer."""
    try:
        cli.run(command.main, [str(a) for a in argv])
    except SystemExit as left:
        return left.code
    finally:
        disk.folder = None
    return 0


def contents(folder):
    """Of all files but logs and the lock; of a run's, what does not tell the time."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name in ("run.json", "tensorboard", ".lock"):
            continue
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{**line, "seconds": 0} for line in lines]
        elif path.name == CHECKPOINT:
            found[path.name] = {k: v.tolist() for k, v in load_state(path)["model"].items()}
        elif path.name == "model.safetensors":
            found[path.name] = {k: v.tolist() for k, v in load_file(path).items()}
        else:
            found[path.name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run, and its images."""
    folder = tmp_path_factory.mktemp("whole")
    images = write_images(folder / "images.npz")
    assert call(train, *SHORT, "--dataset", images, "--out", folder / "run") == 0
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)).save(folder / name)
    return folder, images


def check_one_line(errors):
    lines = [line for line in errors.splitlines() if not line.endswith("starting at step 0")]
    assert len(lines) == 1 and lines[0].startswith("error: "), errors
    assert "No space left" in lines[0] and "free some disk space" in lines[0], errors


def test_a_training_that_finds_the_disk_full_again_and_again_comes_to_the_same_end(
    whole, tmp_path, capsys
):
    """Every time one touch later; what was done before is kept, as a checkpoint or whole files."""
    folder, images = whole
    out, kinds = tmp_path / "run", set()
    command = [*SHORT, "--dataset", images, "--resume", "--out", out]
    for last in range(1, 100):
        capsys.readouterr()
        disk.watch(out, last, full)
        code = call(train, *command)
        if code == 0:
            break
        assert code == 2
        check_one_line(capsys.readouterr().err)
        if out.exists():
            contents(out)  # what is there can be read
            assert not list(out.glob(UNFINISHED + "*"))
        event, path = disk.touched[-1]
        kinds.add((event, os.path.basename(path).partition(".")[0]))
    assert last > 15 and {("os.rename", CHECKPOINT.partition(".")[0]), ("fsync", "run")} <= kinds
    assert contents(out) == contents(folder / "run")


def killed_again_and_again(out, *argv):
    """Train until the disk is touched, every time three more; prints how often in the end.

    A process of its own calls this: it forks, and must have no threads.
    """
    call(train, *argv[:-1], f"{out}.first")  # imports, and what else is done once
    watch_fsync(setattr)
    for last in range(1, 100, 3):
        child = os.fork()
        if not child:
            disk.watch(out, last, kill)
            os._exit(call(train, *argv))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != -signal.SIGKILL:
            print("touches", last, "code", code)
            return


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_training_killed_again_and_again_at_each_touch_of_the_disk_comes_to_the_same_end(
    whole, tmp_path
):
    folder, images = whole
    out = str(tmp_path / "run")
    argv = [*SHORT, "--dataset", images, "--resume", "--out", out]
    code = "import sys, test_faults; test_faults.killed_again_and_again(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, out, *argv],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=500,
    )
    touches, code = (int(word) for word in done.stdout.split()[-3::2])
    assert touches > 15 and code == 0, done.stderr
    assert contents(tmp_path / "run") == contents(folder / "run")


COMMANDS = {
    "sample": (sample, lambda run, out: [run, "--n", 4, "--out", out / "s.png"]),
    "reconstruct": (reconstruct, lambda run, out: [run, "--n", 4, "--out", out / "r.png"]),
    "encode": (compress, lambda run, out: [*encoding(run), "--out", out / "f.rrvq"]),
    "lossy": (compress, lambda run, out: [*encoding(run), "--lossy", "--out", out / "f.rrvq"]),
    "decode": (compress, lambda run, out: ["decode", run, run.parent / "ab.rrvq", "--out", out]),
}


def encoding(run):
    return ["encode", run, run.parent / "a.png", run.parent / "b.png"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_finds_the_disk_full_leaves_what_was_there(name, whole, tmp_path, capsys):
    if name in ("encode", "lossy", "decode"):
        pytest.importorskip("constriction", reason="needs pip's constriction")
    command, arguments = COMMANDS[name]
    run = whole[0] / "run"
    if name == "decode" and not (run.parent / "ab.rrvq").exists():
        assert call(compress, *encoding(run), "--out", run.parent / "ab.rrvq") == 0
    out, argv = tmp_path / "out", arguments(run, tmp_path / "out")
    out.mkdir()
    disk.watch(out)
    assert call(command, *argv) == 0
    touched, good = len(disk.touched), contents(out)
    assert touched > 3
    for path in out.iterdir():
        path.unlink()
    for last in range(1, touched + 1):
        capsys.readouterr()
        disk.watch(out, last, full)
        assert call(command, *argv) == 2, disk.touched[-1]
        check_one_line(capsys.readouterr().err)
        assert not contents(out)
    for name in good:
        (out / name).write_bytes(b"old")
    disk.watch(out, 2, full)
    assert call(command, *argv, "--force") == 2
    assert all((out / name).read_bytes() == b"old" for name in good)
    assert call(command, *argv, "--force") == 0 and contents(out) == good
