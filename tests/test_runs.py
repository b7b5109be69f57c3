"""The named runs: they build, they are what the paper says where they claim to be."""

import json
import os
import shlex
from pathlib import Path

import pytest
import torch

from rrvqlib import cli, data, train
from rrvqlib.models import build
from rrvqlib.optimisation import trainer as trainer_module
from rrvqlib.runs import RUNS, command
from rrvqlib.settings.flat import changed
from rrvqlib.settings.run import RunSettings

STORED = sorted((Path(__file__).parent.parent / "book" / "results").glob("*/run.json"))


@pytest.mark.parametrize("name", RUNS)
def test_every_named_run_builds(name):
    run = RUNS[name]
    assert run.cost and run.expect
    with torch.device("meta"):
        model = build(run.config.model)
    assert sum(p.numel() for p in model.parameters()) > 1000
    # A process of torchrun and a micro-batch get whole images.
    assert run.config.batch_size % (run.config.grad_accumulation * 2) == 0
    assert run.config.save_every <= run.config.steps
    assert run.config.eval_every <= run.config.steps


def settings_of(line):
    """A command line -> the settings that it trains with, and its folder."""
    args = train.make_parser().parse_args(shlex.split(line)[3:])
    return changed(RUNS[args.run].config, **cli.read_fields(args, RunSettings)), args.out


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cifar10-l32", {}),
        (
            "photos",
            {"pyramid": (16, 8, 8), "codebook_size": (8, 8, 4), "lr": 1.2345e-4, "ema": 0.0},
        ),
        ("cifar10-cpu", {"likelihood": "logistic", "dataset": "npz:my data/it's.npz", "seed": 3}),
        ("a trial", {"steps": 7, "start_from": "runs/other"}),
    ],
)
def test_the_command_of_a_run_gives_its_settings(name, changes):
    base = RUNS[name].config if name in RUNS else RUNS["photos"].config
    config = changed(base, **changes)
    line = command(name, config, Path("runs/a b"))
    assert settings_of(line) == (config, Path("runs/a b"))
    assert line.count("--") == 2 + len(changes)  # what the named run says is not repeated


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.parent.name)
def test_a_stored_run_has_the_command_that_repeats_it(path):
    run = json.loads(path.read_text())
    config, out = settings_of(run["command"])
    assert out == Path("runs") / path.parent.name
    for name, value in run["settings"].items():
        found = getattr(config, name)
        assert (list(found) if isinstance(found, tuple) else found) == value, name


def test_the_runs_that_are_promised_are_there():
    promised = {"photos", "photos-mixture", "cifar10-cpu-mixture", "cifar10-cpu-mixture-spatial",
                "cifar10-l32-c64-mixture", "cifar10-l32-c64-mixture-spatial",
                "appb-rvq", "appb-spatial", "apph-mlp", "vqvae", "cifar10-cpu",
                "cifar10-l32", "svhn-l32", "celeba-l32", "cifar10-l32-paper", "svhn-l32-paper",
                "celeba-l32-paper", "cifar10-l32-c32", "cifar10-l32-c64", "cifar10-l32-c128",
                "cifar10-l32-16gb", "cifar10-l32-spatial", "svhn-l32-spatial",
                "celeba-l32-spatial", "celeba-l5"}  # fmt: skip
    assert promised <= RUNS.keys()


GRID = {
    "cifar10-l5-rrvq": ("isotropic", "embedding"),
    "cifar10-l5-embedding-fixed": ("fixed", "embedding"),
    "cifar10-l5-direct-learnt": ("isotropic", "direct"),
    "cifar10-l5-direct-fixed": ("fixed", "direct"),
}


@pytest.mark.parametrize(("name", "cell"), GRID.items())
def test_the_cells_of_the_grid_differ_in_two_settings_alone(name, cell):
    config = RUNS[name].config
    assert (config.covariance, config.prior) == cell
    assert changed(config, covariance="isotropic", prior="embedding") == (
        RUNS["cifar10-l5-rrvq"].config)  # fmt: skip
    assert config.pyramid == (16, 8, 4, 2, 1) and config.blocks == config.ladder_blocks == 4
    assert config.codes == (256,) and config.code_size == 128


def test_the_faces_of_five_layers_take_2275_bits():
    config = RUNS["celeba-l5"].config
    assert config.codes == (128, 64, 32, 16, 8) and config.pyramid == (16, 8, 4, 2, 1)
    assert config.code_size == 32
    assert config.rate_ceiling * config.dims == pytest.approx(2275)


def test_the_nets_of_appendix_b():
    for name, model in (("appb-rvq", "relaxed-vqvae"), ("appb-spatial", "spatial-vae")):
        config = RUNS[name].config
        assert config.model == model and config.blocks == 2 and config.channels == 32
        assert config.latent_variables == 32 * 32 // 4  # a quarter of the pixels
        assert config.codes == (16,) and config.code_size == 16
    assert RUNS["appb-rvq"].config.covariance == "fixed"
    assert RUNS["apph-mlp"].config.network == "mlp"


@pytest.mark.parametrize("name", [name for name in RUNS if name.endswith("-spatial")])
def test_gaussian_twins_differ_in_their_latents_alone(name):
    config, twin = RUNS[name].config, RUNS[name.removesuffix("-spatial") + (
        "-rvq" if name == "appb-spatial" else "")].config  # fmt: skip
    if config.model == "hierarchy":
        assert config == changed(twin, latent="gaussian")
    else:
        assert config == changed(twin, model="one-layer", latent="gaussian")


def test_narrow_runs_and_the_16_gb_run():
    for channels in (32, 64, 128):
        assert RUNS[f"cifar10-l32-c{channels}"].config.channels == channels
    assert RUNS["cifar10-l32-16gb"].config.precision == "fp32"
    assert RUNS["cifar10-l32"].config.precision == "auto" and RUNS["cifar10-l32"].config.compile


def test_the_size_of_the_paper_s_network():
    with torch.device("meta"):
        model = build(RUNS["cifar10-l32-paper"].config.model)
    # Our count: the residual blocks alone have about 85 M; ladders and straps come on top.
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(85e6, rel=0.15)


slow = pytest.mark.skipif(
    os.environ.get("RRVQ_SLOW") != "1", reason="takes minutes; runs with RRVQ_SLOW=1"
)


@pytest.mark.slow
@slow
def test_32_layers_of_256_channels_take_steps_on_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "INIT_IMAGES", 8)  # of the 256 that a run takes
    config: RunSettings = changed(
        RUNS["cifar10-l32-paper"].config, dataset="photos", batch_size=2, device="cpu"
    )
    run = trainer_module.Trainer(config, data.load("photos", image_size=32), tmp_path, "slow")
    for _ in range(3):
        run.step()
    assert run.progress.skipped == 0
    for name, parameter in run.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.isfinite().all(), name
    window = run.progress.window
    print(f"loss {window.loss / 3:.3f} bits/dim, gradient norm {window.grad_norm / 3:.3f},"
          f" largest KL of a layer {window.largest_layer_kl:.1f} nats")  # fmt: skip
