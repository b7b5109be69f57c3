"""Made-up records of runs: each finding has one that shows it, a healthy run has none."""

import math
import re

import pytest
import torch

from rrvqlib.runs.health import findings
from rrvqlib.settings import RunSettings, changed
from rrvqlib.teaching.images import within_image_share

SETTINGS = changed(RunSettings(), pyramid=(16, 8), codebook_size=(64,))


def bits(settings, layer, nats_per_latent):
    """KL of a layer in bits per dim."""
    model = settings.model
    return nats_per_latent * model.pyramid[layer] ** 2 / (model.dims * math.log(2))


def line(step, settings=SETTINGS, **changes):
    healthy = {
        "step": step,
        "temperature": 0.7,
        "train_loss_bits_per_dim": 5.0,
        "valid_bits_per_dim": 5.05,
        "valid_bits_per_dim_se": 0.02,
        "kl_bits_per_dim": [bits(settings, layer, 2.0) for layer in range(settings.model.layers)],
        "perplexity": [40.0] * settings.model.layers,
        "grad_norm": 0.3,
        "largest_layer_kl": 500.0,
        "skipped_steps": 0,
    }
    return {**healthy, **changes}


def run(settings=SETTINGS, **changes):
    """Five evaluations; a list among the changes gives one value to each of them."""
    steps = range(100, 600, 100)
    per_line = [
        {k: v[i] if isinstance(v, tuple) else v for k, v in changes.items()} for i in range(5)
    ]
    return [line(step, settings, **c) for step, c in zip(steps, per_line, strict=True)]


@pytest.mark.parametrize(
    ("changes", "wanted", "unwanted"),
    [
        (
            {"model": "one-layer", "latent": "nearest", "pyramid": (8,)},
            "--codebook_decay",
            "--codebook_lr_factor",
        ),
        ({"latent": "nearest"}, "--dead_code_threshold", "--codebook_lr_factor"),
        (
            {"model": "one-layer", "latent": "nearest", "pyramid": (8,), "codebook_update": "loss"},
            "lr_factor",
            "_decay",
        ),
        ({"latent": "nearest", "codebook_init": "kmeans"}, "--codebook_decay", "--codebook_init"),
        ({}, "--codebook_lr_factor", "--codebook_decay"),
    ],
)
def test_advice_names_settings_that_the_model_has(changes, wanted, unwanted):
    settings = changed(SETTINGS, **changes)
    (text,) = findings(settings, run(settings, perplexity=[3.0] * settings.model.layers))[:1]
    assert wanted in text and unwanted not in text


def flags_in(texts):
    return set(re.findall(r"--(\w+)", " ".join(texts)))


BITS = {"model": "one-layer", "latent": "binary", "pyramid": (8,), "embedding_dim": 3}
HIGH = {"kl_bits_per_dim": 2}  # far above what any codes can carry
LOW = {"kl_bits_per_dim": 0}


@pytest.mark.parametrize(
    ("changes", "what", "wanted"),
    [
        (BITS, HIGH, {"pyramid", "embedding_dim", "model"}),
        ({"latent": "binary"}, HIGH, {"embedding_dim"}),
        ({"model": "one-layer", "pyramid": (8,)}, HIGH, {"pyramid", "codebook_size", "model"}),
        ({"model": "one-layer", "pyramid": (16,)}, HIGH, {"pyramid", "codebook_size", "model"}),
        ({"model": "one-layer", "pyramid": (32,)}, HIGH, {"codebook_size", "model"}),
        (
            {"model": "one-layer", "pyramid": (8,), "objective": "vimco"},
            HIGH,
            {"pyramid", "codebook_size"},
        ),
        ({}, LOW, {"free_nats", "kl_warmup"}),
        ({"grad_accumulation": 2}, LOW, {"kl_warmup"}),
        ({}, {"skipped_steps": 50}, {"lr", "lr_warmup"}),
        ({"schedule": "plateau"}, {"skipped_steps": 50}, {"lr"}),
        (
            {"relaxation": "soft"},
            {"train_loss_bits_per_dim": 4.0},
            {"temperature_end", "relaxation"},
        ),
        (
            {"relaxation": "soft", "temperature_schedule": "constant"},
            {"train_loss_bits_per_dim": 4.0},
            {"temperature", "relaxation"},
        ),
        ({"seconds": 60.0}, {"valid_bits_per_dim": (6.0, 5.7, 5.5, 5.4, 5.3)}, {"seconds"}),
    ],
)
def test_advice_is_to_change_what_these_settings_take(changes, what, wanted):
    settings = changed(SETTINGS, **changes)
    if "kl_bits_per_dim" in what:
        what = {"kl_bits_per_dim": [float(what["kl_bits_per_dim"])] * settings.model.layers}
    if settings.model.latent.kind == "binary":
        what = {**what, "perplexity": [2.0] * settings.model.layers}
    texts = findings(settings, run(settings, **what))
    assert texts and flags_in(texts) == wanted


def test_of_scalar_codes_there_can_only_be_fewer():
    settings = changed(SETTINGS, latent="scalar")
    (text,) = findings(settings, run(settings, perplexity=[3.0, 200.0]))
    assert "3 of its 240 codes" in text and flags_in([text]) == {"levels"}


def test_a_mixture_s_loss_is_no_score_and_its_codes_are_not_all_that_it_tells():
    settings = changed(SETTINGS, latent="gaussian-mixture", relaxation="soft")
    high = [bits(settings, layer, 9.0) for layer in range(settings.model.layers)]  # above log K
    line = run(settings, kl_bits_per_dim=high, train_loss_bits_per_dim=4.0)
    assert findings(settings, line) == []
    (text,) = findings(settings, run(settings, perplexity=[5.0, 40.0]))
    assert "5 of its 64 codes" in text


def test_nothing_stands_out_in_a_healthy_run():
    assert findings(SETTINGS, run()) == []
    assert findings(SETTINGS, run()[:1]) == []  # one evaluation is enough to ask


def rates(*nats_per_latent):
    """The KL of two layers."""
    return [bits(SETTINGS, layer, nats) for layer, nats in enumerate(nats_per_latent)]


FINDINGS = {
    "layer 2 uses the equivalent of 5 of its 64 codes": {"perplexity": [40.0, 5.0]},
    "layer 2 has collapsed: 0.0010 nats": {"kl_bits_per_dim": rates(2.0, 0.001)},
    "layer 1 is full: 4.10 of at most 4.16": {"kl_bits_per_dim": rates(4.1, 2.0)},
    "0.55 bits/dim worse.*temperature 0.70 is hot": {"train_loss_bits_per_dim": 4.5},
    "grown from 500 to 1600 nats": {"largest_layer_kl": (400.0, 450.0, 500.0, 900.0, 1600.0)},
    "9 of 500 steps were skipped": {"skipped_steps": (0, 0, 1, 4, 9)},
    r"better before \(5.000 against 5.200\)": {"valid_bits_per_dim": (5.3, 5.1, 5.0, 5.1, 5.2)},
    "still falling": {"valid_bits_per_dim": (6.0, 5.7, 5.5, 5.4, 5.3)},
}


@pytest.mark.parametrize("text", FINDINGS)
def test_each_finding_is_found_alone(text):
    settings = changed(SETTINGS, relaxation="soft") if "hot" in text else SETTINGS
    (found,) = findings(settings, run(settings, **FINDINGS[text]))
    assert re.search(text, found), found
    assert "--" in found or "overfits" in found  # every one says what to try


@pytest.mark.parametrize(
    "changes",
    [
        {"perplexity": [40.0, 13.0]},  # just above a fifth of 64
        {"kl_bits_per_dim": rates(3.9, 0.02)},
        {"train_loss_bits_per_dim": 4.0},  # straight-through: the loss is with hard samples too
        {"largest_layer_kl": (1.0, 400.0, 500.0, 900.0, 1400.0)},
        {"skipped_steps": 5},
        {"valid_bits_per_dim": (5.3, 5.1, 5.0, 5.03, 5.05)},
    ],
)
def test_what_is_close_to_a_finding_is_none(changes):
    assert findings(SETTINGS, run(**changes)) == []


def test_a_vqvae_always_pays_log_k_and_is_not_told_so():
    settings = changed(SETTINGS, model="one-layer", latent="nearest", pyramid=(16,))
    full = {"kl_bits_per_dim": [bits(settings, 0, math.log(64))]}
    assert findings(settings, run(settings, **full)) == []
    relaxed = changed(settings, latent="relaxed")
    assert len(findings(relaxed, run(relaxed, **full))) == 1


@pytest.mark.parametrize(
    "settings",
    [
        changed(SETTINGS, latent="gaussian"),
        changed(SETTINGS, model="one-layer", latent="gaussian", pyramid=(16,)),
    ],
)
def test_gaussian_latents_have_no_codes(settings):
    high = [bits(settings, layer, 9.0) for layer in range(settings.model.layers)]  # above log K
    assert findings(settings, run(settings, kl_bits_per_dim=high, perplexity=None)) == []


def test_within_image_share_of_constant_images_is_0_and_of_equal_images_1():
    colours = torch.rand(5, 3, 1, 1)
    assert within_image_share(colours.expand(-1, -1, 4, 4)) == pytest.approx(0, abs=1e-12)
    copies = torch.rand(1, 3, 4, 4).expand(5, -1, -1, -1)
    assert within_image_share(copies) == pytest.approx(1)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_within_image_share_of_independent_patches(side):
    generator = torch.Generator().manual_seed(0)
    patches = torch.randint(256, (4000, 3, side, side), generator=generator)
    images = patches.repeat_interleave(8 // side, 2).repeat_interleave(8 // side, 3).byte()
    assert within_image_share(images) == pytest.approx(1 - 1 / side**2, abs=0.01)


def test_within_image_share_by_the_law_of_total_variance_and_on_any_scale():
    images = torch.randint(256, (6, 3, 4, 5), generator=torch.Generator().manual_seed(1)).byte()
    by_image = images.double().flatten(2)  # (N, C, H * W)
    total = by_image.transpose(0, 1).flatten(1).var(1, correction=0).sum()
    within = by_image.var(2, correction=0).mean(0).sum()
    share = within_image_share(images)
    assert share == pytest.approx((within / total).item())
    assert within_image_share(images / 255 - 0.5) == pytest.approx(share)


@pytest.mark.parametrize(
    "images", [torch.rand(1, 3, 4, 4), torch.rand(3, 4, 4), torch.ones(5, 3, 4, 4)]
)
def test_within_image_share_of_nothing_to_divide(images):
    with pytest.raises(ValueError):
        within_image_share(images)
