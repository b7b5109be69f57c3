"""Training by the clock: schedules follow the time, and the run is scored when it is up."""

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import TINY, TINY_FLAGS, trainer

from rrvqlib.errors import UserError
from rrvqlib.models import load_model
from rrvqlib.optimisation import clock as clock_module
from rrvqlib.optimisation.clock import Clock, Pace, due
from rrvqlib.optimisation.signals import Stopped, StopRequest
from rrvqlib.optimisation.whole_run import train
from rrvqlib.runs.checkpoint import CHECKPOINT, load_state
from rrvqlib.settings import changed


class Time:
    """A clock that is moved by hand."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(clock_module.time, "perf_counter", lambda: self.now)


def test_a_position_is_the_share_of_the_time_that_is_left_for_training(monkeypatch):
    hand = Time(monkeypatch)
    clock = Clock(steps=1000, seconds=60, started=100)
    hand.now += 10  # set-up
    clock.start(position=0, reserve=20)
    assert clock.left == 30 and clock.position(5) == 0
    hand.now += 15
    assert clock.position(7) == pytest.approx(500)
    hand.now += 14.999
    assert clock.position(8) < 1000
    hand.now += 1
    assert clock.position(9) == 1000 and clock.spent == pytest.approx(40.999)


def test_a_resumed_clock_goes_on_where_it_was_with_the_seconds_that_are_left(monkeypatch):
    hand = Time(monkeypatch)
    clock = Clock(steps=1000, seconds=60, started=100)
    clock.earlier = 25.0
    hand.now += 5
    clock.start(position=400, reserve=10)
    assert clock.left == 20
    hand.now += 10
    assert clock.position(3) == pytest.approx(700)


def test_by_steps_a_position_is_the_step():
    clock = Clock(steps=12, seconds=0, started=0)
    assert [clock.position(step) for step in (0, 1, 12)] == [0, 1, 12]


def test_what_is_due():
    assert [step for step in range(1, 13) if due(step - 1, step, 4)] == [4, 8, 12]
    assert due(3.9, 4.1, 4) and due(3.9, 12.1, 4) and not due(4.0, 7.9, 4)


def test_the_pace_tells_the_value_itself_where_there_is_no_gpu():
    pace = Pace(torch.device("cpu"))
    assert [pace.wait(torch.tensor(n)) for n in (3, 4)] == [3, 4]


def wait_for(path, process):
    """Until a running process has written a file."""
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def lines_of(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_by_the_clock_is_finished_and_scored_in_its_time(images, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    settings = changed(TINY, dataset=images, seconds=8.0, steps=100, eval_every=25, save_every=50)
    started = time.perf_counter()
    results = train(settings, out, "tiny", show_progress=False)
    took = time.perf_counter() - started
    assert 4 < took < 10
    assert results["complete"] and results["n_test"] == 12
    assert load_model(out) and (out / "samples.png").exists()
    lines = lines_of(out)
    assert len(lines) == 4
    # All schedules have come to their ends.
    assert lines[-1]["lr"] == pytest.approx(settings.schedule.lr_min, rel=0.2)
    assert lines[-1]["temperature"] == pytest.approx(settings.schedule.temperature_end, rel=0.01)
    run = json.loads((out / "run.json").read_text())
    assert run["images_seen"] == 8 * lines[-1]["step"] > 8 * 20
    assert run["wall_seconds"] == pytest.approx(took, abs=0.5)
    assert train(settings, out, "tiny", resume=True, show_progress=False) == results


def test_time_that_does_not_suffice_for_a_step_is_said(images, tmp_path):
    settings = changed(TINY, dataset=images, seconds=0.5)
    with pytest.raises(UserError, match=r"--seconds 0\.5.*give more"):
        trainer(settings, tmp_path / "run").run(show_progress=False)


def test_a_stopped_run_is_saved_scored_and_goes_on(images, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    settings = changed(TINY, dataset=images, seconds=12.0, steps=100, eval_every=10)

    signals = [signal.SIGTERM]  # one: a second would mean it

    def stop(trainer, line):
        if signals:
            signal.raise_signal(signals.pop())

    with pytest.raises(Stopped) as stopped:
        train(settings, out, "tiny", show_progress=False, watch=stop)
    assert stopped.value.code == 143
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] is False and results["test_bits_per_dim"] > 0
    assert load_model(out) and (out / "reconstructions.png").exists()
    progress = load_state(out / CHECKPOINT)["progress"]
    assert 10 <= progress["position"] < 100
    results = train(settings, out, "tiny", resume=True, show_progress=False)
    assert results["complete"]
    run = json.loads((out / "run.json").read_text())
    assert 7 < run["wall_seconds"] < 13.5  # of both parts together


def test_a_second_signal_quits_without_the_score(images, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "rrvqlib.train", "--dataset", images, "--out", str(out)]
    command += [*TINY_FLAGS, "--steps", "100000", "--iw_k", "30000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(out / CHECKPOINT, process)
    process.send_signal(signal.SIGTERM)
    assert "stopping after this step" in "".join(process.stderr.readline() for _ in range(2))
    assert "saved; scoring it" in process.stderr.readline()
    wait_for(out / "model.safetensors", process)  # comes before the score
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not (out / "results.json").exists() and "Traceback" not in process.stderr.read()


def test_training_works_outside_the_main_thread(images, tmp_path):
    out, found = tmp_path / "run", []
    out.mkdir()
    settings = changed(TINY, dataset=images, steps=2)
    thread = threading.Thread(
        target=lambda: found.append(train(settings, out, "tiny", show_progress=False))
    )
    thread.start()
    thread.join(120)
    assert found[0]["complete"]


def test_signals_before_the_checkpoint_wait_for_it_and_the_third_leaves():
    with StopRequest() as stop, pytest.raises(SystemExit) as left:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM and not stop.hurried
        signal.raise_signal(signal.SIGINT)
        assert stop.signum == signal.SIGTERM and stop.hurried
        signal.raise_signal(signal.SIGINT)
    assert left.value.code == 130 and not isinstance(left.value, Stopped)


def test_a_signal_after_the_checkpoint_leaves_at_once():
    with StopRequest() as stop, pytest.raises(Stopped, match="step 7 and saved") as left:
        stop.saved_at(7)
        signal.raise_signal(signal.SIGTERM)
    assert left.value.code == 143


def test_two_signals_in_one_step_save_the_run_and_leave_the_score_out(images, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    settings = changed(TINY, dataset=images, steps=100, eval_every=10, save_every=1000)

    def stop(trainer, line):
        for signum in (signal.SIGINT, signal.SIGINT):
            signal.raise_signal(signum)

    with pytest.raises(Stopped, match="step 11 and saved") as stopped:
        train(settings, out, "tiny", show_progress=False, watch=stop)
    assert stopped.value.code == 130 and load_model(out)
    assert load_state(out / CHECKPOINT)["progress"]["step"] == 11
    assert not (out / "results.json").exists()


@pytest.mark.parametrize("where", ["last evaluation", "score"])
def test_a_signal_when_all_steps_are_made_is_not_lost(where, images, tmp_path, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    settings = changed(TINY, dataset=images, steps=4, eval_every=4)

    def stop(*_args, **_named):
        signal.raise_signal(signal.SIGTERM)

    watch = stop if where == "last evaluation" else None
    if where == "score":
        monkeypatch.setattr("rrvqlib.runs.records.final_results", stop)
    with pytest.raises(Stopped) as stopped:
        train(settings, out, "tiny", show_progress=False, watch=watch)
    assert stopped.value.code == 143 and load_model(out)
    assert load_state(out / CHECKPOINT)["progress"]["step"] == 4
    assert (out / "results.json").exists() == (where == "last evaluation")
    monkeypatch.undo()
    results = train(settings, out, "tiny", resume=True, show_progress=False)
    assert results["complete"]


@pytest.mark.parametrize("console", ["pipe", "full"])
def test_a_console_that_is_gone_does_not_cost_the_score(console, images, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "rrvqlib.train", "--dataset", images, "--out", str(out)]
    command += [*TINY_FLAGS, "--steps", "100000"]
    if console == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") if console == "full" else nullcontext() as full:
        process = subprocess.Popen(command, stderr=full or subprocess.PIPE, stdout=full)
    while not (out / CHECKPOINT).exists():
        assert process.poll() is None
        time.sleep(0.02)
    if console == "pipe":
        process.stderr.close()  # as `| tee` does when Ctrl-C reaches it, too
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=100) == 130
    assert json.loads((out / "results.json").read_text())["complete"] is False


@pytest.mark.parametrize(
    "damaged", ["", "[]", "{}", '{"complete": true}', '{"test_bits_per_dim": "x"}']
)
def test_damaged_results_are_made_again(damaged, images, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    settings = changed(TINY, dataset=images, steps=2)
    results = train(settings, out, "tiny", show_progress=False)
    (out / "results.json").write_text(damaged)
    again = train(settings, out, "tiny", resume=True, show_progress=False)
    assert again == results == json.loads((out / "results.json").read_text())
