"""Scores: against one image at a time, seeds, batch sizes, perplexity, the importance bound."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY, lively, note_draws, random_images
from test_step import OnOneDevice

import rrvqlib
from rrvqlib import data
from rrvqlib.errors import UserError
from rrvqlib.likelihoods import reals_to_pixels
from rrvqlib.models import build
from rrvqlib.runs import records
from rrvqlib.runs.pictures import write_run_pictures
from rrvqlib.runs.scoring import (
    batches,
    count_codes,
    device_of,
    evaluating,
    importance_weighted_score,
    likeness,
    perplexity,
    score,
    score_over_classes,
    seeded,
)
from rrvqlib.runs.similarity import ssim
from rrvqlib.settings import ModelSettings, RunSettings, changed

HIERARCHY = changed(
    ModelSettings(),
    image_size=8,
    pyramid=(4, 2),
    codebook_size=(5, 3),
    embedding_dim=2,
    channels=4,
    codebook_init="unit",
)
ONE_LAYER = changed(
    HIERARCHY, model="one-layer", latent="nearest", pyramid=(4,), codebook_size=(5,)
)
MODELS = {
    "hierarchy": HIERARCHY,
    "gaussian-hierarchy": changed(HIERARCHY, latent="gaussian"),
    "binary-hierarchy": changed(HIERARCHY, latent="binary"),
    "groups": changed(HIERARCHY, groups=2),
    "nearest-hierarchy": changed(HIERARCHY, latent="nearest"),
    "fsq": changed(ONE_LAYER, latent="scalar", levels=(3, 2)),
    "gaussian-mixture": changed(HIERARCHY, latent="gaussian-mixture"),
    "residual": changed(HIERARCHY, latent="residual", stages=2),
    "vimco": changed(ONE_LAYER, latent="relaxed", objective="vimco"),
    "vqvae": ONE_LAYER,
    "relaxed-vqvae": changed(ONE_LAYER, latent="relaxed"),
    "spatial-vae": changed(ONE_LAYER, latent="gaussian"),
}
each_model = pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS.keys())
IMAGES = random_images(23, 8)


def fresh(settings):
    torch.manual_seed(0)
    model = build(settings)
    model.initialise(IMAGES, torch.zeros(len(IMAGES)).long() if settings.classes else None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("K", [1, 2, 7, 256])
def test_perplexity_of_equal_use_is_k_and_of_collapse_is_one(K):
    assert perplexity(torch.full((K,), 40)) == pytest.approx(K)
    collapsed = torch.zeros(K, dtype=torch.int64)
    collapsed[-1] = 40
    assert perplexity(collapsed) == pytest.approx(1)


def test_perplexity_is_two_to_the_entropy_in_bits():
    assert perplexity(torch.tensor([2, 1, 1, 0])) == pytest.approx(2**1.5)


def test_codes_are_counted():
    counts = count_codes(torch.tensor([[[0, 2], [2, 2]]]), 4)
    assert counts.tolist() == [1, 0, 3, 0]


def test_batches_are_in_order_and_leave_nothing_out():
    labels = torch.arange(len(IMAGES))
    parts = list(batches(IMAGES, 10, torch.device("cpu"), "", labels))
    assert [len(p) for p, _ in parts] == [10, 10, 3]
    assert torch.equal(torch.cat([p for p, _ in parts]), IMAGES)
    assert torch.equal(torch.cat([y for _, y in parts]), labels)
    assert {y for _, y in batches(IMAGES, 10, torch.device("cpu"), "")} == {None}


def test_seeded_leaves_the_global_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded(7):
        first = torch.rand(4)
    assert torch.equal(torch.rand(4), expected)
    with seeded(7):
        assert torch.equal(torch.rand(4), first)


@each_model
def test_a_score_is_the_mean_of_the_images_elbos(settings):
    model = fresh(settings)
    found = score(model, IMAGES, batch_size=23, seed=5)
    with torch.no_grad():
        torch.manual_seed(5)
        terms = model.eval()(IMAGES)
    bits = -terms.elbo.double().numpy() / (192 * math.log(2))
    assert found["bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-6)
    assert found["bits_per_dim_se"] == pytest.approx(np.std(bits, ddof=1) / 23**0.5, rel=1e-6)
    kl = terms.kl.double().numpy().mean(0) / (192 * math.log(2))
    assert found["kl_bits_per_dim"] == pytest.approx(kl.tolist(), rel=1e-5)
    assert found["n"] == 23
    if terms.codes[0] is None:
        assert found["perplexity"] is None and found["codes_in_use"] is None
    else:
        for layer, codes in enumerate(terms.codes):
            p = np.bincount(codes.flatten().numpy()) / codes.numel()
            p = p[p > 0]
            assert found["codes_in_use"][layer] == len(p)
            assert found["perplexity"][layer] == pytest.approx(math.exp(-(p * np.log(p)).sum()))


@each_model
def test_scores_are_repeatable_and_change_nothing(settings):
    model = fresh(settings).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = score(model, IMAGES, batch_size=10, seed=2)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(99)
    assert score(model, IMAGES, batch_size=10, seed=2) == first
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_another_seed_draws_other_samples():
    model = fresh(HIERARCHY)
    assert score(model, IMAGES, seed=0) != score(model, IMAGES, seed=1)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_deterministic_posterior_scores_the_same_at_any_batch_size(size):
    model = fresh(ONE_LAYER)
    first = score(model, IMAGES, batch_size=23)
    other = score(model, IMAGES, batch_size=size, seed=size)
    assert other["bits_per_dim"] == pytest.approx(first["bits_per_dim"], rel=1e-6)
    assert other["perplexity"] == pytest.approx(first["perplexity"])
    assert other["codes_in_use"] == first["codes_in_use"]
    assert first["kl_bits_per_dim"] == pytest.approx([16 * math.log2(5) / 192])


def test_one_image_has_no_standard_error():
    assert score(fresh(ONE_LAYER), IMAGES[:1])["bits_per_dim_se"] is None
    assert importance_weighted_score(fresh(ONE_LAYER), IMAGES[:1], 2)["bits_per_dim_se"] is None


def test_the_bound_of_a_deterministic_posterior_is_its_elbo():
    model = fresh(ONE_LAYER)
    bound = importance_weighted_score(model, IMAGES, k=5, batch_size=7)
    one = score(model, IMAGES)
    assert bound["bits_per_dim"] == pytest.approx(one["bits_per_dim"], rel=1e-6)
    assert bound["elbo"] == pytest.approx(one["bits_per_dim"], rel=1e-6)
    assert bound["bits_per_dim_se"] == pytest.approx(one["bits_per_dim_se"], rel=1e-5)
    assert bound["n"] == one["n"]


@pytest.mark.parametrize("name", ["hierarchy", "gaussian-hierarchy", "relaxed-vqvae"])
def test_the_bound_tightens_with_more_samples(name):
    model = fresh(MODELS[name])
    bounds = [
        np.mean(
            [
                importance_weighted_score(model, IMAGES, k, 100, seed)["bits_per_dim"]
                for seed in range(3)
            ]
        )
        for k in (1, 8, 64)
    ]
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > bounds[-1]


@pytest.mark.parametrize("batch_size", [4, 12, 100])
def test_the_bound_is_the_mean_over_images_of_the_log_mean_weight(batch_size):
    """Whatever the batch size, which may hold less than one image's samples."""
    model, k = fresh(HIERARCHY), 6
    found = importance_weighted_score(model, IMAGES, k, batch_size, seed=4)
    size = max(1, batch_size // k)
    total = elbo = 0.0
    with torch.no_grad(), seeded(4):
        model.eval()
        for start in range(0, 23, size):
            images = IMAGES[start : start + size]
            copies = torch.cat([images] * k)
            drawn = [
                model(copies[i : i + batch_size]).log_weight
                for i in range(0, len(copies), batch_size)
            ]
            weights = torch.cat(drawn).double().numpy().reshape(k, len(images))
            elbo += weights.mean(0).sum()
            total += np.log(np.exp(weights - weights.max()).mean(0)).sum()
            total += weights.max() * len(images)
    to_bits = -1 / 23 / 192 / math.log(2)
    assert found["bits_per_dim"] == pytest.approx(total * to_bits, rel=1e-6)
    assert found["elbo"] == pytest.approx(elbo * to_bits, rel=1e-6)


def test_the_bound_leaves_model_and_random_numbers_alone():
    model = fresh(HIERARCHY).train()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = importance_weighted_score(model, IMAGES, 3, seed=2)
    assert torch.equal(torch.rand(3), expected) and model.training
    assert importance_weighted_score(model, IMAGES, 3, seed=2) == first


def test_device_of_a_model():
    assert device_of(build(HIERARCHY)) == torch.device("cpu")


def test_prior_entropy_is_that_of_the_prior_s_distributions(monkeypatch):
    model = lively(changed(HIERARCHY, top_prior="uniform"), by=0.3)
    images = IMAGES[:7]
    found = score(model, images, batch_size=3)["prior_entropy_bits"]
    assert found[1] == pytest.approx(math.log2(3))  # uniform
    noted = note_draws(model, monkeypatch)
    assert score(model, images, batch_size=3)["prior_entropy_bits"] == found
    lower = model.latents[0]
    tables = [lower.log_prior(prior) for latent, _, prior in noted if latent is lower]
    entropies = [torch.distributions.Categorical(logits=table).entropy() for table in tables]
    expected = torch.cat(entropies).mean().item() / math.log(2)
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert 0 < found[0] < math.log2(5)
    gaussian = build(MODELS["gaussian-hierarchy"])
    assert score(gaussian, images)["prior_entropy_bits"] is None


@pytest.mark.parametrize("settings", [HIERARCHY, ONE_LAYER], ids=["hierarchy", "vqvae"])
def test_a_score_waits_for_its_device_no_oftener_with_more_batches(settings, monkeypatch):
    """Whatever reads numbers on the host waits for a GPU."""
    model, waits = fresh(settings), []

    def counted(name):
        method = getattr(torch.Tensor, name)

        def counting(*args, **kwargs):
            waits.append(name)
            return method(*args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counting)

    for name in ("cpu", "item", "tolist", "numpy", "__bool__", "__int__", "__float__"):
        counted(name)
    found = {}
    for size in (23, 4):
        for call in (score, lambda *args: importance_weighted_score(*args[:2], 2, args[2])):
            del waits[:]
            call(model, IMAGES, size)
            found.setdefault(size, []).append(sorted(waits))
    assert found[23] == found[4]


def test_codes_are_counted_without_looking_for_the_largest():
    with OnOneDevice("meta"):
        counts = count_codes(torch.zeros(2, 3, 3, dtype=torch.int64, device="meta"), 5)
    assert counts.shape == (5,) and counts.dtype == torch.int64


@pytest.mark.parametrize("classes", [0, 3])
def test_what_finishing_sends_through_the_model_is_counted(classes, monkeypatch, tmp_path):
    """Test and training images, samples of the bound, and both pictures."""
    settings = changed(replace(RunSettings(), model=HIERARCHY), iw_k=4, iw_images=3)
    settings = changed(settings, classes=classes)
    model, passed = fresh(settings.model), []
    twice = torch.cat([IMAGES, IMAGES])
    labels = {"train": torch.arange(len(twice)) % 3, "test": torch.arange(len(IMAGES)) % 3}
    splits = data.Splits(twice, IMAGES, IMAGES, "images", "some", labels=labels if classes else {})
    infer, decode_prior = model.infer, model.decode_prior
    monkeypatch.setattr(
        model, "infer", lambda images, *rest: passed.append(len(images)) or infer(images, *rest)
    )
    monkeypatch.setattr(
        model,
        "decode_prior",
        lambda n, *rest, **named: passed.append(n) or decode_prior(n, *rest, **named),
    )
    records.final_results(model, splits, settings, complete=True)
    write_run_pictures(model, splits.test, tmp_path, 0, splits.labels.get("test"))
    assert sum(passed) == records.forward_passes(splits, settings)


def test_likeness_is_that_of_the_reconstructions():
    model = rrvqlib.load("photos")
    images = data.load("photos", image_size=32).test[:12]
    found = likeness(model, images, batch_size=5, seed=3)
    with seeded(3):
        rebuilt = [reals_to_pixels(model.reconstruct(part)) for part in images.split(5)]
    error = (torch.cat(rebuilt).double() - images.double()).square().mean().item()
    assert found["psnr_db"] == pytest.approx(10 * math.log10(255**2 / error))
    assert found["ssim"] == pytest.approx(ssim(images, torch.cat(rebuilt)))
    assert 0.3 < found["ssim"] < 1 and found["likeness_n"] == 12


def test_likeness_without_scikit_image_and_below_its_window(monkeypatch):
    small = build(changed(TINY, image_size=4, pyramid=(2,)).model)
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert likeness(small, images)["ssim"] is None
    monkeypatch.setitem(sys.modules, "rrvqlib.runs.similarity", None)
    assert likeness(small, images) == {"psnr_db": None, "ssim": None, "likeness_n": 0}


def test_a_model_is_in_its_mode_again_whatever_happens():
    model = fresh(HIERARCHY).train()
    with pytest.raises(KeyError), evaluating(model, 0):
        assert not model.training
        raise KeyError
    assert model.training


def test_what_uses_a_vq_vae_leaves_its_codebook_alone():
    model = fresh(ONE_LAYER).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.reconstruct(IMAGES)
    score(model, IMAGES)
    likeness(model, IMAGES)
    model(IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(IMAGES, torch.tensor(1.0))  # a step of training does not
    assert not torch.equal(model.latent.codebook.means, before["latent.codebook.means"])


@pytest.mark.parametrize("bad", [-1, 3])
def test_a_label_that_is_no_class_is_refused(bad):
    model = fresh(changed(HIERARCHY, classes=3))
    labels = torch.zeros(len(IMAGES)).long()
    labels[4] = bad
    for call in (
        lambda: score(model, IMAGES, labels=labels),
        lambda: importance_weighted_score(model, IMAGES, 2, labels=labels),
        lambda: likeness(model, IMAGES, labels=labels),
        lambda: score_over_classes(model, IMAGES, labels),
    ):
        with pytest.raises(UserError, match="from 0 to 2"):
            call()
    with pytest.raises(UserError, match="int64"):
        score_over_classes(model, IMAGES, torch.zeros(1).long())


def test_hardware_is_what_computes():
    assert records.hardware(torch.device("mps"), 1)["device"].startswith("Apple GPU")
    assert records.hardware(torch.device("cpu"), 1)["device"].startswith("CPU, ")
