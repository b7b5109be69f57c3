"""The sitting from start to end on a CPU, and cut off at every stage."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from helpers import TINY, write_images

from rrvqlib.errors import UserError
from rrvqlib.models import build, load_model, save_model
from rrvqlib.models.weights import weight_files
from rrvqlib.runs import RUNS, NamedRun
from rrvqlib.runs.checkpoint import CHECKPOINT
from rrvqlib.settings import changed

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import sitting  # noqa: E402

SLOW_START = changed(TINY, steps=100, lr_warmup=2, eval_every=10)
# Registers the tiny run, then is the command.
PROGRAM = """
import sys
sys.path[:0] = [{tests!r}, {root!r}, {tools!r}]
import test_sitting, sitting
from rrvqlib import cli
test_sitting.register()
cli.run(sitting.main)
"""


def register():
    RUNS["tiny"] = NamedRun(SLOW_START, "seconds", "nothing")


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(RUNS, "tiny", NamedRun(SLOW_START, "seconds", "nothing"))
    dataset = write_images(tmp_path / "images.npz", train=100)
    return ("--run", "tiny", "--dataset", dataset)


def packed(out):
    """What a sitting left: its files, a model that loads, its records."""
    with tarfile.open(out / "records.tar") as archive:
        archive.extractall(out / "unpacked", filter="data")
    for path in weight_files(out):
        (out / "unpacked" / path.name).write_bytes(path.read_bytes())
    assert load_model(out / "unpacked").settings == SLOW_START.model
    return {path.name for path in out.iterdir() if path.is_file()}, out / "unpacked"


def test_a_sitting_measures_chooses_trains_and_packs(tiny, tmp_path, capsys):
    speed, out = tmp_path / "speed.json", tmp_path / "out"
    sitting.main(["--measure", str(speed), *tiny, "--seconds", "30"])
    found = json.loads(speed.read_text())
    assert len(found["rows"]) == 2 and found["choice"]["images_per_second"] > 0
    assert found["versions"]["torch"] and found["hardware"]["device"]
    started = time.perf_counter()
    sitting.main(["--plan", str(speed), *tiny, "--seconds", "10", "--out", str(out)])
    assert time.perf_counter() - started < 12
    names, records = packed(out)
    assert names == {
        "model.safetensors",
        "samples.png",
        "reconstructions.png",
        "log.txt",
        "records.tar",
    }
    results = json.loads((records / "results.json").read_text())
    assert results["complete"] and results["n_test"] == 12
    settings = json.loads((records / "run.json").read_text())["settings"]
    assert settings["optimisation"]["batch_size"] == found["choice"]["batch_size"]
    assert settings["schedule"]["lr"] == found["choice"]["lr"]
    assert "bits/dim" in capsys.readouterr().out
    assert "attempt 0" in (out / "log.txt").read_text()


def test_without_a_measurement_it_trains_as_the_run_says(tiny, tmp_path):
    out = tmp_path / "out"
    sitting.main(["--plan", str(tmp_path / "none"), *tiny, "--seconds", "8", "--out", str(out)])
    settings = json.loads((packed(out)[1] / "run.json").read_text())["settings"]
    assert settings["optimisation"]["batch_size"] == TINY.optimisation.batch_size
    assert settings["schedule"]["lr"] == TINY.schedule.lr


def test_a_loss_that_does_not_fall_starts_again_at_half_the_rate(tiny, tmp_path, monkeypatch):
    seen = []

    class Watch(sitting.Watch):
        def __call__(self, trainer, line):
            seen.append(trainer.settings.schedule.lr)
            if len(set(seen)) < 3:  # the first two rates are too high
                line = {**line, "train_loss_bits_per_dim": float("nan")}
            super().__call__(trainer, line)

    monkeypatch.setattr(sitting, "Watch", Watch)
    out = tmp_path / "out"
    sitting.main(["--plan", "none", *tiny, "--seconds", "12", "--out", str(out)])
    lr = TINY.schedule.lr
    assert list(dict.fromkeys(seen)) == [lr, lr / 2, lr / 4]
    assert json.loads((packed(out)[1] / "results.json").read_text())["complete"]


def test_a_loss_that_never_falls_is_an_error(tiny, tmp_path, monkeypatch):
    def never(*_):
        raise sitting.NotFalling("no")

    monkeypatch.setattr(sitting.Watch, "__call__", never)
    with pytest.raises(UserError, match="did not fall at 1/8"):
        sitting.main(["--plan", "none", *tiny, "--seconds", "20", "--out", str(tmp_path / "out")])


def line(loss):
    others = dict.fromkeys(("step", "seconds", "grad_norm_max", "skipped_steps"), 0)
    return {"train_loss_bits_per_dim": loss, "valid_bits_per_dim": 5.0, **others}


def test_what_counts_as_falling(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sitting.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(sitting, "save_model", lambda *_: None)
    monkeypatch.setattr(sitting, "pack", lambda *_: None)

    class Fake:
        evaluated, out, settings, done = None, tmp_path, TINY, False

    watch = sitting.Watch(tmp_path, 390.0)
    for now[0], loss in ((20.0, 8.0), (39.0, 8.2), (60.0, 7.0), (200.0, 5.0)):
        watch(Fake, line(loss))
    with pytest.raises(sitting.NotFalling, match=r"8\.10, and was 8\.00"):
        watch(Fake, line(8.1))
    with pytest.raises(sitting.NotFalling, match="nan"):
        watch(Fake, line(float("nan")))


def test_the_choice_is_the_smallest_batch_near_the_best():
    def row(batch, rate, **more):
        way = {"recorded": True, "compiled": False}
        return {"batch_size": batch, "images_per_second": rate, **way, **more}

    rows = [row(128, 6000), row(256, 9000), row(512, 10_000), row(128, 2000, recorded=False)]
    settings = RUNS["cifar10-l32-c64"].settings
    choice = sitting.choose(settings, rows)
    assert choice["batch_size"] == 256 and choice["recorded"]
    assert choice["lr"] == pytest.approx(settings.schedule.lr * 2**0.5, abs=1e-6)
    failed = {**row(256, 0), "failed": "x", "compiled": True}
    del failed["images_per_second"]
    assert sitting.choose(settings, [*rows, failed]) == choice
    assert sitting.choose(settings, [*rows, row(256, 14_000, compiled=True)])["compiled"]
    assert sitting.choose(settings, [failed]) is None


def test_a_measurement_that_takes_too_long_is_cut_off():
    started = time.perf_counter()
    with pytest.raises(sitting.TimeIsUp), sitting.at_most(0.3):
        time.sleep(20)
    assert time.perf_counter() - started < 5


# Stage -> what is there, in the folder of the test, when it has begun.
STAGES = {
    "start": "out/log.txt",
    "training": "out/records.tar",  # from its first evaluation on there is a model
    "scoring": f"tmp*/{CHECKPOINT}",  # of a sitting it is written when training is done
}


@pytest.mark.parametrize(
    ("kill", "stage"),
    [
        (signal.SIGKILL, "start"),
        (signal.SIGKILL, "training"),
        (signal.SIGKILL, "scoring"),
        (signal.SIGTERM, "start"),
        (signal.SIGTERM, "training"),
    ],
)
def test_a_sitting_killed_at_any_stage_leaves_what_it_had(kill, stage, tmp_path):
    dataset = write_images(tmp_path / "images.npz", train=100)
    out = tmp_path / "out"
    program = PROGRAM.format(tests=str(ROOT / "tests"), root=str(ROOT), tools=str(ROOT / "tools"))
    command = [sys.executable, "-c", program, "--plan", "none", "--run", "tiny"]
    process = subprocess.Popen(
        [*command, "--dataset", dataset, "--seconds", "8", "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    while not list(tmp_path.glob(STAGES[stage])):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(kill)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    if (out / "records.tar").exists():
        names, records = packed(out)
        assert {"log.txt", "model.safetensors"} <= names
        assert (records / "metrics.jsonl").exists()
    else:
        assert stage == "start"
    if kill == signal.SIGTERM and stage == "training":
        assert process.returncode == 143
        assert json.loads((packed(out)[1] / "results.json").read_text())["complete"] is False


def test_two_signals_at_the_start_still_leave_a_model(tmp_path):
    dataset = write_images(tmp_path / "images.npz", train=100)
    out = tmp_path / "out"
    program = PROGRAM.format(tests=str(ROOT / "tests"), root=str(ROOT), tools=str(ROOT / "tools"))
    command = [sys.executable, "-c", program, "--plan", "none", "--run", "tiny"]
    command += ["--dataset", dataset, "--seconds", "600", "--out", str(out)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    while not list(tmp_path.glob("tmp*/metrics.jsonl")):  # training has begun
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in errors
    assert "stopped at step" in (out / "log.txt").read_text()
    assert "model.safetensors" in packed(out)[0]


def test_a_console_that_is_gone_leaves_the_log(tmp_path):
    log = open(tmp_path / "log", "w+")  # noqa: SIM115 (as a sitting's)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as console:
        both = sitting.Both(console, log)
        for text in ("one ", "two"):
            both.write(text)
    log.seek(0)
    assert log.read() == "one two"


REFUSED = {
    "another run's plan": (("--plan", "{speed}"), "measured with another run's settings"),
    "a plan of the wrong kinds": (("--plan", "{kinds}"), "no batch_size of the right kind"),
    "an empty plan": (("--plan", ""), "--plan is empty"),
    "an empty start": (("--plan", "none", "--start_from", " "), "--start_from is empty"),
    "a folder in use": (("--plan", "none", "--out", "{used}"), "is not empty"),
    "notes": (("--measure", "{notes}"), "is no measurement"),
    "notes for a plan": (("--plan", "{notes}"), "is damaged"),
    "measuring into a folder": (("--measure", "{new}", "--out", "{new}"), "--out: is of --plan"),
    "no images": (("--plan", "none", "--dataset", "npz:nowhere.npz"), "nowhere.npz"),
    "ages": (("--measure", "{new}", "--seconds", "2e6"), "from 5 to a million"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_sitting_refuses_before_it_writes(case, tiny, tmp_path):
    words, message = REFUSED[case]
    choice = {"batch_size": 8, "recorded": False, "compiled": False, "lr": 0.1}
    files = {
        "speed": {"choice": choice, "settings": {"model": {}, "schedule": None}, "rows": []},
        "kinds": {"choice": choice | {"batch_size": "8"}, "settings": {}, "rows": []},
        "notes": ["mine"],
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    words = [word.format(**{n: tmp_path / n for n in (*files, "used", "new")}) for word in words]
    out = () if "--out" in words or "--measure" in words else ("--out", str(tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def refused():
        with pytest.raises((UserError, SystemExit)) as error:
            sitting.main([*tiny, *out, *words])
        return error.value

    assert message in str(refused())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_error_that_leaves_nothing_leaves_the_folder_free(tiny, tmp_path, monkeypatch):
    def fail(_settings, run, *_args, **_named):
        (run / "run.json").write_text("{}")
        raise UserError("too few seconds")

    monkeypatch.setattr(sitting, "train", fail)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="too few"):
        sitting.main(["--plan", "none", *tiny, "--seconds", "8", "--out", str(out)])
    assert not list(out.iterdir())


def test_a_measurement_of_nothing_is_an_error(tiny, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no steps")

    monkeypatch.setattr(sitting, "rate_of", fail)
    with pytest.raises(UserError, match="give more --seconds"):
        sitting.main(["--measure", str(tmp_path / "speed.json"), *tiny, "--seconds", "30"])
    assert json.loads((tmp_path / "speed.json").read_text())["choice"] is None


def test_an_attempt_without_weights_leaves_the_model_of_the_one_before(tiny, tmp_path, monkeypatch):
    attempts, train = [], sitting.train

    class Watch(sitting.Watch):
        def __call__(self, trainer, line):
            super().__call__(trainer, line)  # packs
            raise sitting.NotFalling("no")

    def once(settings, run, *args, **named):
        attempts.append(run)
        if len(attempts) == 1:
            return train(settings, run, *args, **named)
        (run / "run.json").write_text("{}")
        raise UserError("too few seconds")

    monkeypatch.setattr(sitting, "Watch", Watch)
    monkeypatch.setattr(sitting, "train", once)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="too few"):
        sitting.main(["--plan", "none", *tiny, "--seconds", "60", "--out", str(out)])
    assert "model.safetensors" in packed(out)[0] and len(attempts) == 2
    assert "error: too few seconds" in (out / "log.txt").read_text()


def test_shards_and_records_are_packed_together(tmp_path):
    model = build(TINY.model)
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    out.mkdir()
    for shard_mb in (0.01, 0.02, 100):
        save_model(model, run, "float16", shard_mb)
        sitting.pack(run, out)
        assert {path.name for path in weight_files(run)} | {"records.tar"} == {
            path.name for path in out.iterdir()
        }
        with tarfile.open(out / "records.tar") as archive:
            archive.extractall(out, filter="data")
        assert load_model(out).settings == TINY.model
        for name in sitting.RECORDS:
            (out / name).unlink(missing_ok=True)
