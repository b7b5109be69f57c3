"""The runs named after the paper: what it states, and what we chose where it says nothing."""

import importlib
import itertools
import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, write_images
from torch import nn

from rrvqlib import evaluate
from rrvqlib.models import build
from rrvqlib.nets.convolutions import ResidualBlock, rescale
from rrvqlib.objectives.elbo import ElboTerms, training_loss
from rrvqlib.optimisation.schedules import Plateau
from rrvqlib.optimisation.whole_run import train
from rrvqlib.paper import OPEN, STATED
from rrvqlib.runs import RUNS
from rrvqlib.runs.folder import images_of, open_images, open_model
from rrvqlib.runs.scoring import score
from rrvqlib.settings import changed, flattened, idle_names
from tools.recipe_page import PAGE, page

PAIRS = [(row, name) for row in (*STATED, *OPEN) for name in RUNS if row.is_about(name)]


@pytest.mark.parametrize(("row", "name"), PAIRS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_run_has_the_settings_of_every_row_about_it(row, name):
    settings = flattened(RUNS[name].settings)
    assert {key: settings.get(key) for key in row.settings} == row.settings


def test_no_row_is_idle_and_every_run_of_the_paper_has_rows():
    for row in (*STATED, *OPEN):
        assert any(map(row.is_about, RUNS)), row
    names = [name for name in RUNS if name.endswith("-paper")]
    assert len(names) == 12  # Table 1: 3; Table G.1: 2 x 4; App. F: 1
    for name in names:
        assert sum(row.is_about(name) for row in STATED) >= 15
        assert "selects on test" in RUNS[name].expect


def test_two_rows_do_not_contradict_each_other():
    for name in RUNS:
        found = {}
        for row in (*STATED, *OPEN):
            for key, value in row.settings.items() if row.is_about(name) else ():
                assert found.setdefault(key, value) == value, (name, key)


def test_settings_of_the_paper_s_runs_are_stated_or_listed_as_open_or_play_no_part():
    """What makes a run is in one of the tables, so that no choice of ours hides."""
    elsewhere = set(  # not of the recipe, or without effect on these runs
        "second_stage data_dir seed start_from max_skipped save_every iw_k iw_images device compile"
        " cuda_graphs channels_last grad_accumulation image_size image_channels classes seconds"
        " weights_dtype shard_mb".split()
    )
    for name in (name for name in RUNS if name.endswith("-paper")):
        said = {k for row in (*STATED, *OPEN) if row.is_about(name) for k in row.settings}
        settings = RUNS[name].settings
        missing = flattened(settings).keys() - idle_names(settings).keys() - said - elsewhere
        assert not missing, (name, missing)


def epochs(settings):
    """Of a run that is evaluated after each."""
    return settings.schedule.steps / settings.evaluation.eval_every


def test_variants_change_one_thing():
    for name, run in RUNS.items():
        if name.endswith("-paper-as-printed"):
            base = RUNS[name.removesuffix("-as-printed")].settings
            assert run.settings == changed(base, covariance="as_printed")
        if name.endswith("-paper-validated"):
            base = RUNS[name.removesuffix("-validated")].settings
            assert run.settings.data.select_on == "validation" and "test" not in run.expect
            assert epochs(run.settings) == epochs(base)  # as many, smaller
            names = ("select_on", "steps", "eval_every", "save_every")
            assert changed(run.settings, **{n: flattened(base)[n] for n in names}) == base


def test_epochs_are_those_of_the_official_sizes():
    # By hand: 50,000 images are 781 whole batches of 64, 500 epochs of which are 390,500 steps.
    # SVHN has 73,257, CelebA 162,770 and 19,867 for validation.
    steps = {"cifar10": 390_500, "svhn": 572_000, "celeba": 456_480}
    assert {n: RUNS[f"{n}-l32-paper"].settings.schedule.steps for n in steps} == steps


def test_the_rate_of_the_paper_s_run_falls_after_twenty_epochs_without_progress():
    schedule = RUNS["cifar10-l32-paper"].settings.schedule
    plateau = Plateau(schedule.lr, schedule.lr_min, schedule.plateau_patience)
    plateau.note(5.0)
    found = []
    for _ in range(14 * 20):
        plateau.note(5.0)  # no better
        found.append(plateau.lr)
    assert found[18] == 8e-4 and found[19] == pytest.approx(6.4e-4)
    assert found[38] == pytest.approx(6.4e-4) and found[39] == pytest.approx(5.12e-4)
    assert found[12 * 20 - 1] > 5e-5 and found[13 * 20 - 1 :] == [5e-5] * 21  # 260 epochs


def test_a_run_that_selects_on_test_trains_on_all_others_and_says_so(tmp_path):
    dataset = write_images(tmp_path / "images.npz", train=40, test=12)
    settings = changed(TINY, dataset=dataset, select_on="test", iw_k=0, eval_images=0)
    results = train(settings, tmp_path, "tiny", show_progress=False)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["split_sizes"] == {"train": 40, "valid": 12, "test": 12}
    assert "SELECTS ON TEST" in run["dataset_description"]
    assert results["selected_on"] == "test"
    # The scores that are watched are those of the test images, with the weights' average.
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["valid_bits_per_dim"] == pytest.approx(results["test_bits_per_dim"], abs=1e-9)
    others = images_of(changed(settings, select_on="validation"))
    assert [len(others[split]) for split in ("train", "valid", "test")] == [36, 4, 12]
    joined = images_of(settings)
    assert torch.equal(joined.train, torch.cat([others.train, others.valid]))  # official order
    arguments = evaluate.make_parser().parse_args([str(tmp_path), "--split", "valid"])
    images, _, _ = open_images(arguments, open_model(arguments))  # the folder knows its own images
    assert torch.equal(images, others.test)


# What is in the code and not in a setting, on a small model of the same kind.

SMALL = changed(
    RUNS["cifar10-l5-rrvq-paper"].settings.model,
    channels=4,
    codebook_size=(6,),
    embedding_dim=3,
    blocks=2,
    ladder_blocks=1,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build(SMALL).eval()


def score_is_of_categorical_samples(model):
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(0)
    by_hand = -model(images, None).elbo.mean() / (3072 * math.log(2))
    assert score(model, images, seed=0)["bits_per_dim"] == pytest.approx(by_hand.item(), abs=1e-5)
    vectors = model.infer(images, None).draws[0].vectors.permute(0, 2, 3, 1).flatten(0, 2)
    codes = model.decoder.layers[0].latent.codebook.means
    assert (vectors[:, None] == codes).all(2).any(1).all()  # none is a mixture


def ends_have_stride_2(model):
    first, last = model.encoder.enc[0][0], model.decoder.head[-1]
    assert isinstance(first, nn.Conv2d) and first.stride == (2, 2)
    assert isinstance(last, nn.ConvTranspose2d) and last.stride == (2, 2)


def decoder_blocks_are_transposed(model):
    for layer in model.decoder.layers:
        for block in layer.dec:
            assert isinstance(block.first, nn.ConvTranspose2d)
    for enc in model.encoder.enc[1:]:
        assert not any(isinstance(m, nn.ConvTranspose2d) for m in enc.modules())


def identity_is_rescaled(model):
    block = model.decoder.layers[0].dec[0]
    block.second.parametrizations.weight.original0.data.zero_()
    block.second.bias.data.zero_()
    maps = torch.randn(1, 4, 3, 3, requires_grad=True)
    out = block(maps)
    torch.testing.assert_close(out, maps.repeat_interleave(2, 2).repeat_interleave(2, 3))
    out.sum().backward()
    torch.testing.assert_close(maps.grad, torch.full_like(maps, 4.0))
    torch.testing.assert_close(rescale(torch.ones(1, 1, 4, 4), 0.5), torch.ones(1, 1, 2, 2))


def straps_upscale(model):
    for layer, side in zip(model.decoder.layers, SMALL.pyramid, strict=True):
        above = SMALL.pyramid[min(SMALL.pyramid.index(side) + 1, 4)]
        state = torch.randn(1, 4, above, above)
        for strap in (layer.qstrap, layer.pstrap):
            if strap is not None:
                assert strap(state).shape[-1] == side
                strides = [m.stride for m in strap.modules() if isinstance(m, nn.ConvTranspose2d)]
                assert ((2, 2) in strides) == (side != above)


def embeddings_are_sums(model):
    layer = model.decoder.layers[1]
    features, state = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)
    both = layer.qladder(features) + layer.qstrap(state)
    torch.testing.assert_close(layer.posterior(features, state), both)
    torch.testing.assert_close(layer.prior(state), layer.pstrap(state))


def all_convolutions_are_weight_normed(model):
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    layers = [m for m in model.modules() if isinstance(m, kinds)]
    assert len(layers) > 30
    for layer in layers:
        assert "weight" in layer.parametrizations
    block, maps = (
        next(m for m in model.modules() if isinstance(m, ResidualBlock)),
        torch.randn(1, 4, 8, 8),
    )
    by_hand = rescale(maps, block.factor) + block.second(F.elu(block.first(F.elu(maps))))
    torch.testing.assert_close(block(maps), by_hand)


def codebooks_are_shared_by_prior_and_posterior(model):
    latents = [layer.latent for layer in model.decoder.layers]
    assert len({id(latent.codebook.means) for latent in latents}) == SMALL.layers
    point = torch.randn(1, 3, 2, 2)
    for latent in latents[:-1]:  # the top's prior is uniform
        torch.testing.assert_close(latent.log_posterior(point), latent.log_prior(point))


def inference_runs_from_the_top_down_like_a_resnet_vae(model):
    """The posterior of a lower layer sees the draws above, through the prior's own state."""
    top, below = model.decoder.layers[-1], model.decoder.layers[-2]
    features, state = torch.randn(1, 4, 2, 2), model.decoder.top(1)
    states = [top.decode(state, top.latent.codebook.means[k].view(1, 3, 1, 1)) for k in (0, 1)]
    posteriors = [below.posterior(features, state) for state in states]
    assert not torch.equal(*posteriors)
    assert not torch.equal(*(below.prior(state) for state in states))
    assert isinstance(below.dec[0], ResidualBlock)


def four_blocks_of_eight_each_a_quarter(_):
    for run in ("cifar10-l32-paper", "svhn-l32-paper", "celeba-l32-paper"):
        sides = RUNS[run].settings.model.pyramid
        blocks = [sides[i : i + 8] for i in range(0, 32, 8)]
        assert len(sides) == 32 and all(len(set(block)) == 1 for block in blocks)
        counts = [block[0] ** 2 for block in blocks]
        assert [a // b for a, b in itertools.pairwise(counts)] == [4, 4, 4]
    assert sum(side**2 for side in RUNS["celeba-l32-paper"].settings.model.pyramid) == 10_880


def kl_below_the_free_bits_has_no_gradient(_):
    little, much = (torch.full((1, 1, 1), nats, requires_grad=True) for nats in (0.1, 3.0))
    loss = training_loss(ElboTerms(torch.zeros(1), (little, much)), free_nats=0.25)
    assert loss.item() == pytest.approx(3.25)
    loss.backward()
    assert little.grad.item() == 0 and much.grad.item() == 1


CHECKS = {
    "rrvqlib.models.hierarchy.HierarchicalVAE": inference_runs_from_the_top_down_like_a_resnet_vae,
    "rrvqlib.runs.named.L32": four_blocks_of_eight_each_a_quarter,
    "rrvqlib.objectives.elbo.training_loss": kl_below_the_free_bits_has_no_gradient,
    "rrvqlib.runs.scoring.score": score_is_of_categorical_samples,
    "rrvqlib.nets.encoder.stem, rrvqlib.nets.decoder.head": ends_have_stride_2,
    "rrvqlib.nets.convolutions.ResidualBlock": decoder_blocks_are_transposed,
    "rrvqlib.nets.convolutions.rescale": identity_is_rescaled,
    "rrvqlib.nets.convolutions.Projection": straps_upscale,
    "rrvqlib.models.top_down.TopDownLayer": embeddings_are_sums,
    "rrvqlib.nets.convolutions.weight_normed": all_convolutions_are_weight_normed,
    "rrvqlib.latents.RelaxedLatent": codebooks_are_shared_by_prior_and_posterior,
}


@pytest.mark.parametrize("row", [row for row in STATED if not row.settings], ids=lambda r: r.code)
def test_what_is_in_the_code_is_there(row, model):
    CHECKS[row.code](model)
    for name in row.code.split(", "):
        module, _, thing = name.rpartition(".")
        assert hasattr(importlib.import_module(module), thing)


def test_the_printed_page_is_the_tables():
    assert PAGE.read_text() == page(), "run tools/recipe_page.py"
    rows = re.findall(r"^\| .*\|$", page(), re.M)
    assert len(rows) == len(STATED) + len(OPEN) + 2 * 2 - 2  # two heads; the rules have no spaces
