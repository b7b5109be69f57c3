"""The training loop: resumed against unbroken, skipped steps, schedules, the run folder."""

import json
import math
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, TINY_FLAGS, VQVAE, start_or_resume, trainer, write_images
from PIL import Image
from torch.optim.swa_utils import AveragedModel

from rrvqlib.errors import UserError
from rrvqlib.models import build, load_model
from rrvqlib.optimisation import reports
from rrvqlib.optimisation import step as step_module
from rrvqlib.optimisation.dials import Statistics
from rrvqlib.optimisation.flat_weights import learning_groups
from rrvqlib.optimisation.log import MetricsLog
from rrvqlib.optimisation.order import ImageOrder
from rrvqlib.optimisation.schedules import Plateau, kl_weight_at, lr_factor_at, temperature_at
from rrvqlib.optimisation.signals import StopRequest
from rrvqlib.optimisation.whole_run import train
from rrvqlib.runs.checkpoint import CHECKPOINT, load_state, save_state
from rrvqlib.runs.records import check_same_run
from rrvqlib.runs.scoring import score
from rrvqlib.settings import RunSettings, ScheduleSettings, changed, from_json
from rrvqlib.settings.latents import LATENTS

KINDS = {
    "cosine": {},
    "plateau": {"schedule": "plateau", "plateau_patience": 1},
    "vqvae": VQVAE,
    "gaussian": {"latent": "gaussian"},
    "adam, no average": {"optimizer": "adam", "ema_decay": 0.0, "lr": 1e-3},
    "accumulated": {"grad_accumulation": 2, "relaxation": "soft"},
}


def metrics(folder):
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def weights(folder):
    return {k: v for k, v in load_state(folder / CHECKPOINT)["model"].items()}


def assert_same_run(one, other):
    assert metrics(one) == metrics(other)
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_resumed_run_equals_an_unbroken_one(kind, images, tmp_path):
    settings = changed(TINY, dataset=images, **kind)
    trainer(settings, tmp_path / "unbroken").run(show_progress=False)
    broken = trainer(settings, tmp_path / "broken")
    log = MetricsLog(broken.out, 0)
    for _ in range(9):  # past a checkpoint (6) and an evaluation (8), which must be repeated
        broken.step()
        if broken.progress.step in (4, 8):
            broken.report(log)
        if broken.progress.step == 6:
            broken.save()
    again = trainer(settings, tmp_path / "broken")
    again.resume()
    assert again.progress.step == 6
    again.run(show_progress=False)
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_the_plateau_schedule_played_by_hand():
    """Down after exactly so many evaluations in a row without a new best, never below the floor."""
    plateau = Plateau(1e-2, floor=7e-3, patience=3)
    scores = [5.0, 6.0, 5.0, 4.9, 5.5, 5.5, 5.5, 5.5, 4.9, 5.5, 5.5, 5.5]
    found = []
    for score_ in scores:
        plateau.note(score_)
        found.append(plateau.lr / 1e-2)
    # Equal to the best is no new best; after a fall the count begins anew.
    assert found == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.8, 0.8, 0.7, 0.7, 0.7])


def test_the_plateau_schedule_remembers_bad_evaluations_when_resumed(images, tmp_path):
    settings = changed(TINY, dataset=images, schedule="plateau", plateau_patience=2)
    run = trainer(settings, tmp_path / "run")
    for valid in (5.0, 6.0):  # the best, then one worse
        run.plateau.note(valid)
    run.save()
    again = trainer(settings, tmp_path / "run")
    again.resume()
    again.plateau.note(5.5)
    assert again.lr == pytest.approx(0.8 * settings.schedule.lr)


def start(images, out, *more):
    command = [sys.executable, "-m", "rrvqlib.train", "--dataset", images, "--out", str(out)]
    command += [*TINY_FLAGS, "--steps", "40", "--eval_every", "20", "--save_every", "1", *more]
    if "plateau" in more:  # which knows no warm-up
        at = command.index("--lr_warmup")
        del command[at : at + 2]
    old = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may themselves run in nohup
    try:
        return subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
    finally:
        signal.signal(signal.SIGHUP, old)


def wait_until(holds, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def saved_at(folder):
    """When a run was last saved; 0 before."""
    path = folder / CHECKPOINT
    return path.stat().st_mtime_ns if path.exists() else 0


SIGNALS = {
    "term": (signal.SIGTERM, ("--model", "one-layer", "--latent", "nearest", "--pyramid", "4")),
    "interrupt": (signal.SIGINT, ("--schedule", "plateau", "--plateau_patience", "1")),
    "hangup": (signal.SIGHUP, ()),
}


@pytest.mark.parametrize(("signum", "flags"), SIGNALS.values(), ids=SIGNALS.keys())
def test_a_run_stopped_by_a_signal_goes_on_as_if_nothing_had_happened(
    signum, flags, images, tmp_path
):
    out = tmp_path / "stopped"
    process = start(images, out, *flags)
    for _ in range(random.Random(int(signum)).randint(1, 6)):
        before = saved_at(out)
        wait_until(lambda before=before: saved_at(out) != before or process.poll() is not None)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, errors
    assert "saved" in errors and "--resume" in errors and "Traceback" not in errors
    state = load_state(out / CHECKPOINT)
    assert 0 < state["progress"]["step"] <= 40
    process = start(images, out, *flags, "--resume")
    assert process.wait(timeout=120) == 0
    settings = changed(from_json(RunSettings, state["settings"]), dataset=images)
    trainer(settings, tmp_path / "unbroken").run(show_progress=False)
    assert_same_run(tmp_path / "unbroken", out)


def test_nohup_is_heeded():
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.signum
    finally:
        signal.signal(signal.SIGHUP, old)


@pytest.mark.parametrize("kind", ["cosine", "plateau", "vqvae"])
def test_a_run_killed_again_and_again_ends_as_an_unbroken_one(kind, images, tmp_path):
    settings = changed(TINY, dataset=images, steps=40, save_every=1, **KINDS[kind])
    if kind == "plateau":  # a rate that makes the score go up and down
        settings = changed(settings, eval_every=2, lr=0.2)
    out, draw = tmp_path / "killed", random.Random(kind)

    # Not forked from here: a child killed while it holds a lock shared with its parent (the
    # progress bars have one) would leave the parent waiting for ever.
    clean = multiprocessing.get_context("forkserver")
    clean.set_forkserver_preload(["helpers"])
    out.mkdir()
    kills = 0
    for _ in range(4):
        before = saved_at(out)
        child = clean.Process(target=start_or_resume, args=(settings, out))
        child.start()
        wait_until(lambda before=before: saved_at(out) != before)
        time.sleep(draw.uniform(0, 0.04))  # anywhere in the next step or write: no event says so
        child.kill()
        child.join(60)
        kills += child.exitcode == -signal.SIGKILL
        if load_state(out / CHECKPOINT)["progress"]["step"] == settings.schedule.steps:
            break
    assert kills
    start_or_resume(settings, out)
    trainer(settings, tmp_path / "unbroken").run(show_progress=False)
    assert_same_run(tmp_path / "unbroken", out)
    if kind == "plateau":
        assert len({line["lr"] for line in metrics(out)}) > 2


def test_a_disk_that_fills_up_ends_the_run_and_room_lets_it_go_on(images, tmp_path):
    settings, out = changed(TINY, dataset=images, save_every=1), tmp_path / "run"
    run = trainer(settings, out)
    run.step()
    run.save()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)  # of a file, in place of the disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(UserError, match="free some disk space"):
            run.run(show_progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = trainer(settings, out)
    again.resume()
    assert again.progress.step == 1
    again.run(show_progress=False)
    trainer(settings, tmp_path / "unbroken").run(show_progress=False)
    assert_same_run(tmp_path / "unbroken", out)


def test_a_run_killed_while_it_is_scored_is_scored_when_resumed(images, tmp_path, monkeypatch):
    settings, out = changed(TINY, dataset=images), tmp_path / "run"
    out.mkdir()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(reports.pictures, "write_run_pictures", interrupt)
        train(settings, out, "tiny", show_progress=False)
    assert not (out / "results.json").exists()
    results = train(settings, out, "tiny", resume=True, show_progress=False)
    assert results and (out / "samples.png").exists()


def test_no_images_for_the_importance_weighted_bound_means_none(images, tmp_path):
    settings = changed(TINY, dataset=images, steps=1, iw_images=0)
    (tmp_path / "run").mkdir()
    results = train(settings, tmp_path / "run", "tiny", show_progress=False)
    assert results["iw_bits_per_dim"] is None and results["iw_n"] == 0


def test_a_score_that_is_no_number_is_a_clear_error(images, tmp_path, monkeypatch):
    run = trainer(changed(TINY, dataset=images), tmp_path / "run")
    with torch.no_grad():
        run.evaluated.likelihood.log_scale.fill_(math.nan)
    with pytest.raises(UserError, match="not finite.*--lr"):
        reports.finish(run)
    assert not (tmp_path / "run" / "results.json").exists()


def test_the_run_folder_keeps_its_contract(images, tmp_path):
    out = tmp_path / "run"
    settings = changed(TINY, dataset=images)
    out.mkdir()
    returned = train(settings, out, "tiny", show_progress=False)
    run = json.loads((out / "run.json").read_text())
    promised = "run settings seed dataset split_sizes versions hardware wall_seconds images_seen"
    assert set(promised.split()) <= run.keys()
    assert run["images_seen"] == 12 * 8
    assert run["split_sizes"] == {"train": 36, "valid": 4, "test": 12}
    assert from_json(RunSettings, run["settings"]) == settings
    results = json.loads((out / "results.json").read_text())
    assert results == returned
    scores = "test_bits_per_dim test_bits_per_dim_se train_bits_per_dim iw_bits_per_dim iw_k n_test"
    assert {*scores.split(), "kl_bits_per_dim", "perplexity"} <= results.keys()
    assert len(results["kl_bits_per_dim"]) == len(results["perplexity"]) == 2
    assert results["n_test"] == 12 and results["iw_k"] == 2
    lines = metrics(out)
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert {"grad_norm", "largest_layer_kl", "skipped_steps"} <= lines[0].keys()
    assert Image.open(out / "samples.png").size == (8 * 10 - 2, 8 * 10 - 2)
    assert Image.open(out / "reconstructions.png").width == 8 * 10 - 2
    assert list((out / "tensorboard").glob("events*"))
    assert load_model(out).settings == settings.model
    for path in out.iterdir():
        assert path.is_dir() or path.stat().st_mode & 0o044 == 0o044, path
    assert train(settings, out, "tiny", resume=True, show_progress=False) == results


def test_tensorboard_reads_what_was_logged_once_though_steps_are_repeated(images, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings, out = changed(TINY, dataset=images), tmp_path / "run"
    trainer(settings, out).run(show_progress=False)
    log = MetricsLog(out, 6)  # as if a run had been saved there, and goes on
    log.add({"step": 8, "lr": 0.5, "kl_bits_per_dim": [1.0, 2.0], "perplexity": None})
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("valid_bits_per_dim")] == [4]
    assert [(e.step, e.value) for e in events.Scalars("lr")][1:] == [(8, 0.5)]
    assert events.Scalars("kl_bits_per_dim/layer_02")[-1].value == 2.0


def test_tensorboard_shows_the_pictures_of_a_finished_run(images, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    run = trainer(changed(TINY, dataset=images), out)
    run.run(show_progress=False)
    reports.finish(run)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    for name in ("samples", "reconstructions"):
        *_, shown = events.Images(name)
        assert shown.step == TINY.schedule.steps
        assert shown.encoded_image_string == (out / f"{name}.png").read_bytes()
        assert (shown.width, shown.height) == Image.open(out / f"{name}.png").size


@pytest.mark.parametrize("kind", [{}, {**VQVAE, "ema_decay": 0.0}], ids=["averaged", "vqvae"])
def test_tensorboard_shows_how_pictures_change_while_a_run_is_trained(kind, images, tmp_path):
    """At every save, of validation images; the training itself is the same with and without."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    weights = []
    for save_every in (2, 1000):
        out = tmp_path / f"run-{save_every}"
        settings = changed(TINY, dataset=images, steps=6, save_every=save_every, **kind)
        run = trainer(settings, out)
        run.run(show_progress=False)
        # A codebook that follows its features is no parameter.
        codebooks = [x.flatten() for n, x in run.model.state_dict().items() if "codebook" in n]
        weights.append(torch.cat([run.compute.weights.values, *codebooks]))
        if save_every == 2:
            reports.finish(run)
            events = EventAccumulator(str(out / "tensorboard"))
            events.Reload()
            for name in ("samples", "reconstructions"):
                shown = events.Images(name)
                assert [image.step for image in shown] == [2, 4, 6]
                assert len({image.encoded_image_string for image in shown}) == 3
    assert torch.equal(*weights)


def test_a_model_that_paints_nan_on_the_way_is_trained_on(images, tmp_path, monkeypatch):
    def refuse(*args):
        raise UserError("the model gives NaN")

    monkeypatch.setattr(reports.pictures, "run_pictures", refuse)
    run = trainer(changed(TINY, dataset=images, steps=4, save_every=2), tmp_path / "run")
    run.run(show_progress=False)
    assert run.progress.step == 4


@pytest.mark.parametrize("kind", ["file", "dangling", "no folder of files"])
def test_a_tensorboard_folder_that_cannot_be_written_is_one_error(kind, images, tmp_path, capfd):
    run = trainer(changed(TINY, dataset=images), tmp_path / "run")
    path = run.out / "tensorboard"
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to("/nowhere" if kind == "dangling" else "/proc")
    with pytest.raises(UserError, match="cannot write .*tensorboard.*choose another path"):
        run.run(show_progress=False)
    assert capfd.readouterr().err == ""  # no traceback of another thread's
    path.unlink()
    path.mkdir()
    (path / "events.out.tfevents.1").write_bytes(b"of another program")
    run.run(show_progress=False)


def test_layer_one_comes_first(images, tmp_path):
    """A layer with one code can carry nothing: it shows where a list puts it."""
    settings = changed(TINY, dataset=images, codebook_size=(1, 4))
    run = trainer(settings, tmp_path / "run")
    run.run(show_progress=False)
    assert metrics(tmp_path / "run")[-1]["kl_bits_per_dim"][0] == pytest.approx(0, abs=1e-9)
    assert metrics(tmp_path / "run")[-1]["perplexity"][0] == pytest.approx(1)
    assert metrics(tmp_path / "run")[-1]["perplexity"][1] > 1


@pytest.mark.parametrize(
    "changes",
    [*({"latent": latent} for latent in LATENTS), {"relaxation": "soft"}],
    ids=lambda changes: "-".join(changes.values()),
)
def test_a_network_that_puts_out_nan_skips_its_steps(changes, images, tmp_path):
    run = trainer(changed(TINY, dataset=images, **changes), tmp_path / "run")
    run.step()
    with torch.no_grad():
        run.model.decoder.layers[0].qladder.project.bias.fill_(math.nan)
    run.step()
    assert run.skipped == 1 and run.progress.step == 2


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_bf16_run_is_scored_in_float32(ema, images, tmp_path):
    run = trainer(changed(TINY, dataset=images, precision="bf16", ema_decay=ema), tmp_path / "run")
    run.step()
    valid = reports.evaluation(run)["valid_bits_per_dim"]
    reports.finish(run)
    again = score(
        load_model(tmp_path / "run"), run.splits.valid[:10], 100, run.settings.optimisation.seed
    )
    assert valid == pytest.approx(again["bits_per_dim"], rel=1e-6)


@pytest.mark.parametrize("kind", ["hierarchy", "vqvae"])
def test_a_step_with_nan_is_skipped_and_leaves_no_trace(kind, images, tmp_path, monkeypatch):
    settings = changed(TINY, dataset=images, **(VQVAE if kind == "vqvae" else {}))
    run = trainer(settings, tmp_path / "run")
    run.step()
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    original = step_module.training_loss
    monkeypatch.setattr(step_module, "training_loss", lambda *a: original(*a) * math.nan)
    run.step()
    statistics = run.compute.statistics
    assert run.skipped == int(statistics.skipped_in_a_row) == 1
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    monkeypatch.setattr(step_module, "training_loss", original)
    run.step()
    assert run.skipped == 1 and int(statistics.skipped_in_a_row) == 0


def test_nan_features_do_not_poison_the_codebook_averages(images, tmp_path):
    run = trainer(changed(TINY, dataset=images, **VQVAE), tmp_path / "run")
    average, codebook = run.model.latent.average, run.model.latent.codebook
    before = average.sums.clone()
    features = torch.full((6, 3), math.nan)
    average.update(codebook, features, torch.zeros(6, dtype=torch.long))
    assert torch.equal(average.sums, before) and codebook.means.isfinite().all()


def test_training_that_stays_broken_ends_with_a_message_and_good_weights(
    images, tmp_path, monkeypatch
):
    run = trainer(changed(TINY, dataset=images, max_skipped=3), tmp_path / "run")
    run.step()
    weight = next(run.model.parameters())
    monkeypatch.setattr(step_module, "training_loss", lambda *_: math.nan * weight.sum())
    with pytest.raises(UserError, match="3 steps in a row.*--lr"):
        for _ in range(10):
            run.step()
    assert run.progress.step == 4
    assert all(w.isfinite().all() for w in weights(tmp_path / "run").values())


def test_the_skip_threshold_follows_the_norms_and_cannot_lock_up():
    statistics = Statistics(torch.device("cpu"))

    def see(norm):
        norm, one = torch.tensor(norm), torch.ones(())
        statistics.note(one, norm, one, statistics.trusts(one, norm, 20.0))

    for norm in [1.0] * 20:
        see(norm)
    assert statistics.skipped == 0
    for norm in [100.0] * 80:  # a new regime: first skipped, then accepted
        see(norm)
    assert 0 < statistics.skipped < 60
    assert statistics.skipped_in_a_row == 0


def batch_indices(step, n, batch_size):
    order = ImageOrder(n, batch_size, seed=0, device=torch.device("cpu"))
    order.turn_to(step)
    return order.indices()


def test_every_image_is_seen_once_an_epoch():
    seen = torch.cat([batch_indices(step, 40, 5) for step in range(8)])
    assert sorted(seen.tolist()) == list(range(40))
    following = torch.cat([batch_indices(step, 40, 5) for step in range(8, 16)])
    assert sorted(following.tolist()) == list(range(40))
    assert following.tolist() != seen.tolist()


def test_a_set_smaller_than_a_batch_is_repeated():
    indices = batch_indices(3, 3, 8)
    assert len(indices) == 8 and sorted(set(indices.tolist())) == [0, 1, 2]


def test_schedules_start_and_end_where_they_should():
    temperatures = {"temperature": 1.0, "temperature_end": 0.25}
    rates = {"lr": 1e-2, "lr_min": 1e-4, "lr_warmup": 10}
    schedule = ScheduleSettings(steps=100, kl_warmup=0.5, **temperatures, **rates)
    assert temperature_at(0, schedule) == 1.0
    assert temperature_at(50, schedule) == pytest.approx(0.5)
    assert temperature_at(100, schedule) == pytest.approx(0.25)
    linear = changed(schedule, temperature_schedule="linear", temperature_fraction=0.5)
    assert temperature_at(25, linear) == pytest.approx(0.625)
    assert temperature_at(80, linear) == pytest.approx(0.25)
    assert temperature_at(80, changed(schedule, temperature_schedule="constant")) == 1.0
    assert lr_factor_at(0, schedule) == pytest.approx(0.1)
    assert lr_factor_at(100, schedule) == pytest.approx(1e-2)
    assert lr_factor_at(50, schedule) == pytest.approx((1 + 1e-2) / 2)
    assert kl_weight_at(0, schedule) == pytest.approx(1 / 50)
    assert kl_weight_at(49, schedule) == kl_weight_at(99, schedule) == 1.0
    assert kl_weight_at(0, changed(schedule, kl_warmup=0.0)) == 1.0


def test_the_average_of_the_weights_equals_a_numpy_loop(images, tmp_path):
    run = trainer(changed(TINY, dataset=images, ema_decay=0.9), tmp_path / "run")
    name = "encoder.enc.0.0.bias"
    expected = None
    theirs = AveragedModel(
        run.model,
        multi_avg_fn=lambda averages, current, count: torch._foreach_lerp_(
            averages, current, 1 - min(0.9, (1 + float(count)) / (10 + float(count)))
        ),
    )
    for _ in range(6):
        run.step()
        theirs.update_parameters(run.model)
        current = run.model.get_parameter(name).detach().numpy().copy()
        if expected is None:
            expected, count = current, 0  # the first update copies
        else:
            count += 1
            decay = min(0.9, (1 + count) / (10 + count))
            expected = decay * expected + (1 - decay) * current
    average = run.compute.average.model
    found = average.get_parameter(name).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    for ours, torchs in zip(average.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize(
    "kind", [{}, VQVAE, {"latent": "gaussian"}, {**VQVAE, "codebook_update": "loss"}]
)
def test_every_parameter_learns_at_one_of_two_rates(kind):
    settings = changed(TINY, **kind)
    model = build(settings.model)
    slow, fast = learning_groups(model)
    rates = {id(p): 1e-3 for p in slow} | {id(p): 7e-3 for p in fast}
    assert len(rates) == len(slow) + len(fast)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in rates
        elif "codebook" in name or "log_scale" in name:
            assert rates[id(parameter)] == pytest.approx(7e-3), name
        else:
            assert rates[id(parameter)] == pytest.approx(1e-3), name


@pytest.fixture
def saved(images, tmp_path):
    """A run after its first step."""
    run = trainer(changed(TINY, dataset=images), tmp_path / "run")
    run.step()
    run.save()
    return run


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 1e-3), ("channels", 6), ("seed", 1), ("steps", 13), ("latent", "gaussian")],
)
def test_a_checkpoint_of_other_settings_is_refused(name, value, saved):
    other = changed(saved.settings, **{name: value})
    with pytest.raises(UserError, match=f"--{name} {value}: the checkpoint was made with"):
        trainer(other, saved.out).resume()


def test_a_checkpoint_of_settings_that_change_no_number_is_taken(saved):
    trainer(changed(saved.settings, save_every=5), saved.out).resume()


@pytest.mark.parametrize(("then", "now"), [("", "runs/a"), ("runs/a", ""), ("runs/a", "runs/b")])
def test_a_checkpoint_keeps_the_run_that_it_began_with(then, now, saved):
    settings = changed(saved.settings, start_from=then)
    state = load_state(saved.out / CHECKPOINT)
    state["settings"]["optimisation"]["start_from"] = then
    save_state(saved.out / CHECKPOINT, state)

    def resumed(start_from):
        check_same_run(state["settings"], changed(settings, start_from=start_from))

    said = f"{Path(now).name or 'not given'}: the checkpoint was made with"
    with pytest.raises(UserError, match=f"--start_from {said} {Path(then).name or 'none'};"):
        resumed(now)
    resumed(then)
    if then:
        resumed("/elsewhere/a/")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("iw_k", 3, "rrvq evaluate --iw_k"),
        ("iw_images", 5, "rrvq evaluate --iw_images"),
        ("weights_dtype", "float16", "save_model"),
        ("shard_mb", 1, "save_model"),
    ],
)
def test_a_finished_run_does_not_ignore_what_it_is_asked_for(name, value, remedy, images, tmp_path):
    settings, out = changed(TINY, dataset=images, steps=1), tmp_path / "run"
    out.mkdir()
    results = train(settings, out, "tiny", show_progress=False)
    other = changed(settings, **{name: value})
    with pytest.raises(UserError, match=f"--{name} {value}: the run is finished.*{remedy}"):
        train(other, out, "tiny", resume=True, show_progress=False)
    kept = changed(settings, save_every=5)
    assert train(kept, out, "tiny", resume=True, show_progress=False) == results


@pytest.mark.parametrize(
    "wrong",
    [
        lambda state: {},
        lambda state: {"settings": state["settings"]},
        lambda state: {**state, "optimizer": None},
        lambda state: {**state, "progress": {"step": 1, "epochs": 2}},
        lambda state: {**state, "statistics": state["statistics"][1:]},
        lambda state: {**state, "model": dict(list(state["model"].items())[1:])},
        lambda state: {**state, "settings": None},
        lambda state: {**state, "settings": {"channels": 4}},  # as they were before they nested
    ],
)
def test_a_checkpoint_of_another_version_is_refused(wrong, saved):
    save_state(saved.out / CHECKPOINT, wrong(load_state(saved.out / CHECKPOINT)))
    with pytest.raises(UserError, match="another version or model.*train anew"):
        saved.resume()


def test_a_run_does_not_go_on_with_other_images(images, tmp_path):
    settings, out = changed(TINY, dataset=images), tmp_path / "run"
    run = trainer(settings, out)
    reports.describe(run)
    run.step()
    run.save()
    write_images(tmp_path / "images.npz", train=30)
    sizes = r"now .27 training, 3 valid.*trained .36 training, 4 validation, 12 test images"
    with pytest.raises(UserError, match=f"holds other images {sizes}"):
        trainer(settings, out).resume()
    (out / "run.json").unlink()  # then nothing is known
    trainer(settings, out).resume()


def test_training_lowers_the_score(images, tmp_path):
    settings = changed(TINY, dataset=images, steps=120, eval_every=20, channels=8, embedding_dim=8)
    trainer(settings, tmp_path / "run").run(show_progress=False)
    lines = metrics(tmp_path / "run")
    assert lines[-1]["valid_bits_per_dim"] < lines[0]["valid_bits_per_dim"] - 0.1


def test_log_variances_that_hit_their_bound_come_back(images, tmp_path):
    run = trainer(changed(TINY, dataset=images), tmp_path / "run")
    codebook = run.model.decoder.layers[0].latent.codebook
    raw = codebook.raw_log_variances
    with torch.no_grad():
        raw.fill_(9.0)
    run.step()
    assert raw.max() == 5.0  # on the edge, where the clamp passes gradients again
    raw.grad = None
    codebook.log_variances.sum().backward()
    assert (raw.grad == 1).all()


def test_a_checkpoint_older_than_a_setting_goes_on_with_its_default():
    settings = changed(TINY, model="one-layer", pyramid=(4,), objective="vimco")
    stored = asdict(settings)
    del stored["model"]["second_stage"], stored["model"]["objective"]["num_samples"]
    check_same_run(stored, settings)
    with pytest.raises(UserError, match="--num_samples 5: the checkpoint was made with 8"):
        check_same_run(stored, changed(settings, num_samples=5))


@pytest.mark.parametrize(("latent", "hotter"), [("relaxed", True), ("gaussian", False)])
def test_a_run_that_learnt_nothing_is_told_of_flags_that_it_takes(latent, hotter, images, tmp_path):
    run = trainer(changed(TINY, dataset=images, latent=latent), tmp_path / "run")
    run.progress.step = 3
    run.compute.statistics.skipped.fill_(3)
    with pytest.raises(UserError, match="nothing was learnt.*--lr") as error:
        reports.finish(run)
    assert ("--temperature" in str(error.value)) == hotter


def test_a_file_of_another_kind_is_damaged(images, tmp_path):
    settings = changed(TINY, dataset=images, steps=2, save_every=2)
    (tmp_path / "run").mkdir()
    train(settings, tmp_path / "run", "tiny", show_progress=False)
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(UserError, match="json"):
        train(settings, tmp_path / "run", "tiny", resume=True, show_progress=False)
