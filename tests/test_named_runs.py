"""The named runs: they build, they are what the paper says where they claim to be."""

import json
import os
import shlex
from pathlib import Path

import pytest
import torch

from rrvqlib import cli, data, train
from rrvqlib.models import build
from rrvqlib.optimisation import start
from rrvqlib.optimisation.trainer import Trainer
from rrvqlib.runs import RUNS, command
from rrvqlib.settings import RunSettings, changed, flattened, from_json, idle_names

STORED = sorted((Path(__file__).parent.parent / "book" / "results").glob("*/run.json"))


@pytest.mark.parametrize("name", RUNS)
def test_every_named_run_builds(name):
    run = RUNS[name]
    assert run.cost and run.expect
    with torch.device("meta"):
        model = build(run.settings.model)
    assert sum(p.numel() for p in model.parameters()) > 1000
    # A process of torchrun and a micro-batch get whole images.
    parts, steps = run.settings.machine.grad_accumulation, run.settings.schedule.steps
    assert run.settings.optimisation.batch_size % (parts * 2) == 0
    assert run.settings.evaluation.save_every <= steps
    assert run.settings.evaluation.eval_every <= steps


def settings_of(line):
    """A command line -> the settings that it trains with, and its folder."""
    args = train.make_parser().parse_args(shlex.split(line)[3:])
    return changed(RUNS[args.run].settings, **cli.read_settings(args, RunSettings)), args.out


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in RUNS),
        (
            "photos",
            {"pyramid": (16, 8, 8), "codebook_size": (8, 8, 4), "lr": 1.2345e-4, "ema_decay": 0.0},
        ),
        ("photos", {"model": "one-layer", "pyramid": (16,), "network": "mlp"}),
        ("photos", {"latent": "nearest", "codebook_update": "loss", "commitment": 0.5}),
        ("cifar10-cpu", {"likelihood": "logistic", "dataset": "npz:my data/it's.npz", "seed": 3}),
        ("cifar10-cpu", {"scale_per_channel": False, "compile": True}),
        ("cifar10-l32", {"latent": "gaussian", "embedding_dim": 8}),
        ("cifar10-l32-paper", {"schedule": "cosine", "lr_warmup": 10}),
        ("rival-vimco", {"objective": "elbo"}),
        ("rival-vqvae", {"second_stage": "pixelcnn", "prior_blocks": 2, "start_from": "runs/it"}),
        ("rival-hqa", {"second_stage": "none", "pyramid": (16,), "start_from": ""}),
        ("a trial", {"steps": 7, "start_from": "runs/other"}),
    ],
)
def test_the_command_of_a_run_gives_its_settings(name, changes):
    base = RUNS[name if name in RUNS else "photos"].settings
    settings = changed(base, **changes)
    line = command(name, settings, Path("runs/a b"))
    assert settings_of(line) == (settings, Path("runs/a b"))
    # What the named run says is not repeated.
    new = flattened(settings).keys() - flattened(base).keys() - idle_names(settings).keys()
    assert line.count("--") == 2 + len(changes.keys() | new)


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.parent.name)
def test_a_stored_run_has_the_command_that_repeats_it(path):
    run = json.loads(path.read_text())
    settings, out = settings_of(run["command"])
    assert out == Path("runs") / path.parent.name
    assert from_json(RunSettings, run["settings"]) == settings


def test_the_runs_that_are_promised_are_there():
    promised = """
        photos photos-mixture cifar10-cpu cifar10-cpu-mixture cifar10-cpu-mixture-spatial
        appb-rvq appb-spatial apph-mlp vqvae celeba-l5
        cifar10-l32 svhn-l32 celeba-l32
        cifar10-l32-spatial svhn-l32-spatial celeba-l32-spatial
        cifar10-l32-paper svhn-l32-paper celeba-l32-paper
        cifar10-l32-c32 cifar10-l32-c64 cifar10-l32-c128 cifar10-l32-16gb
        cifar10-l32-c64-mixture cifar10-l32-c64-mixture-spatial
    """.split()
    assert len(promised) == 25 and set(promised) <= RUNS.keys()


GRID = {
    "cifar10-l5-rrvq": ("isotropic", "embedding"),
    "cifar10-l5-embedding-fixed": ("fixed", "embedding"),
    "cifar10-l5-direct-learnt": ("isotropic", "direct"),
    "cifar10-l5-direct-fixed": ("fixed", "direct"),
}


@pytest.mark.parametrize(("name", "cell"), GRID.items())
def test_the_cells_of_the_grid_differ_in_two_settings_alone(name, cell):
    settings = RUNS[name].settings
    model, latent = settings.model, settings.model.latent
    assert (latent.covariance, latent.prior) == cell
    same = changed(settings, covariance="isotropic", prior="embedding")
    assert same == RUNS["cifar10-l5-rrvq"].settings
    assert model.pyramid == (16, 8, 4, 2, 1) and model.blocks == model.ladder_blocks == 4
    assert latent.codebook_size == (256,) and latent.embedding_dim == 128


def test_the_faces_of_five_layers_take_2275_bits():
    model = RUNS["celeba-l5"].settings.model
    assert model.latent.codebook_size == (128, 64, 32, 16, 8)
    assert model.pyramid == (16, 8, 4, 2, 1) and model.latent.embedding_dim == 32
    assert model.rate_ceiling * model.dims == pytest.approx(2275)


def test_the_nets_of_appendix_b():
    models = {name: RUNS[name].settings.model for name in ("appb-rvq", "appb-spatial", "apph-mlp")}
    for name, kind in (("appb-rvq", "relaxed"), ("appb-spatial", "gaussian")):
        model = models[name]
        assert model.kind == "one-layer" and model.latent.kind == kind
        assert model.blocks == 2 and model.channels == 32
        assert model.positions == 32 * 32 // 4  # a quarter of the pixels
        assert model.latent.embedding_dim == 16
    assert models["appb-rvq"].alphabets == [(1, 16)]
    assert models["appb-rvq"].latent.covariance == "fixed"
    assert models["apph-mlp"].network == "mlp"


@pytest.mark.parametrize("name", [name for name in RUNS if name.endswith("-spatial")])
def test_gaussian_twins_differ_in_their_latents_alone(name):
    twin = {"appb-spatial": "appb-rvq"}.get(name, name.removesuffix("-spatial"))
    assert RUNS[name].settings == changed(RUNS[twin].settings, latent="gaussian")


def test_narrow_runs_and_the_16_gb_run():
    for channels in (32, 64, 128):
        assert RUNS[f"cifar10-l32-c{channels}"].settings.model.channels == channels
    assert RUNS["cifar10-l32-16gb"].settings.machine.precision == "fp32"
    machine = RUNS["cifar10-l32"].settings.machine
    assert machine.precision == "auto" and machine.compile


def test_the_size_of_the_paper_s_network():
    with torch.device("meta"):
        model = build(RUNS["cifar10-l32-paper"].settings.model)
    # Our count: the residual blocks alone have about 85 M; ladders and straps come on top.
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(85e6, rel=0.15)


slow = pytest.mark.skipif(
    os.environ.get("RRVQ_SLOW") != "1", reason="takes minutes; runs with RRVQ_SLOW=1"
)


@pytest.mark.slow
@slow
def test_32_layers_of_256_channels_take_steps_on_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "INIT_IMAGES", 8)  # of the 256 that a run takes
    settings = changed(
        RUNS["cifar10-l32-paper"].settings, dataset="photos", batch_size=2, device="cpu"
    )
    run = Trainer(settings, data.load("photos", image_size=32), tmp_path, "slow")
    for _ in range(3):
        run.step()
    assert run.skipped == 0
    for name, parameter in run.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.isfinite().all(), name
    seen = run.compute.statistics.read()
    print(
        f"loss {seen['loss']:.3f} bits/dim, gradient norm {seen['norm']:.3f},"
        f" largest KL of a layer {seen['largest_kl']:.1f} nats"
    )
