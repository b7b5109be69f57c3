"""Whole models: evidence by enumeration, gradients, wiring, initialisation, files, sizes."""

import itertools
import json
import math
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from helpers import lively as lively_everywhere
from helpers import note_draws, output_statistics, random_images
from scipy import stats
from torch import nn

from rrvqlib.errors import UserError
from rrvqlib.latents import NearestLatent
from rrvqlib.likelihoods import pixels_to_reals
from rrvqlib.models import HierarchicalVAE, OneLayerVAE, TwoStageVAE, build
from rrvqlib.nets.convolutions import Normed, ResidualBlock
from rrvqlib.objectives import importance_weighted_bound, training_loss
from rrvqlib.settings import ModelSettings, changed
from rrvqlib.settings.latents import LATENTS
from rrvqlib.settings.likelihoods import LIKELIHOODS
from rrvqlib.settings.model import MODELS, parse_sides
from rrvqlib.settings.objectives import OBJECTIVES
from rrvqlib.settings.second_stages import SECOND_STAGES

TINY = changed(
    ModelSettings(),
    image_size=4,
    pyramid=(2, 1),
    codebook_size=(3,),
    embedding_dim=2,
    channels=4,
    codebook_init="unit",
)
ONE_LAYER = changed(TINY, model="one-layer", pyramid=(2,), blocks=2)
THREE = changed(TINY, image_size=8, pyramid=(4, 2, 1), embedding_dim=3)
WARM = torch.tensor(1.0)
DRAWS = 10_000

HIERARCHIES = {
    "rrvq": TINY,
    "uniform-top": changed(TINY, top_prior="uniform", covariance="fixed"),
    "direct-diagonal": changed(TINY, prior="direct", covariance="diagonal"),
    "concat": changed(TINY, decoder_input="concat", blocks=2, covariance="as_printed"),
    "codes-per-layer": changed(TINY, codebook_size=(2, 5), ladder_blocks=1),
    "one-grid": changed(TINY, pyramid=(1, 1, 1), image_size=2),
    "bits": changed(TINY, latent="binary", ladder_blocks=1),
    "groups": changed(TINY, codebook_size=(2,), groups=2, ladder_blocks=1),
    "sq-vae-2": changed(TINY, latent="stochastic", prior="uniform"),
}
ONE_OF_EACH = {
    "hierarchy": THREE,
    "gaussian-hierarchy": changed(THREE, latent="gaussian"),
    "binary-hierarchy": changed(THREE, latent="binary"),
    "groups": changed(THREE, groups=3, relaxation="reinmax"),
    "vqvae": changed(ONE_LAYER, latent="nearest"),
    "vqvae-loss": changed(ONE_LAYER, latent="nearest", codebook_update="loss"),
    "relaxed-vqvae": ONE_LAYER,
    "relaxed-vqvae-mlp": changed(ONE_LAYER, network="mlp"),
    "fsq": changed(ONE_LAYER, latent="scalar", levels=(9, 40)),
    "gm-vq": changed(ONE_LAYER, latent="gaussian-mixture"),
    "rsq-vae": changed(ONE_LAYER, latent="residual", stages=2),
    "spatial-vae": changed(ONE_LAYER, latent="gaussian"),
    "spatial-vae-mlp": changed(ONE_LAYER, latent="gaussian", network="mlp"),
}
each_model = pytest.mark.parametrize("settings", ONE_OF_EACH.values(), ids=ONE_OF_EACH.keys())


def lively(settings, seed=0):
    """A model whose pixels are as noisy as at the start."""
    return lively_everywhere(settings, seed=seed, by=0.4, but="likelihood.")


# The evidence of a tiny model, by adding up every state of its latent variables.


def all_codes(settings):
    """Every joint state: for each layer int64 (N, side, side, G)."""
    shapes = [(s, s, G) for s, (G, _) in zip(settings.pyramid, settings.alphabets, strict=True)]
    sizes = [math.prod(shape) for shape in shapes]
    states = [
        range(K) for (_, K), n in zip(settings.alphabets, sizes, strict=True) for _ in range(n)
    ]
    table = torch.tensor(list(itertools.product(*states)))
    parts = table.split(sizes, dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


@torch.no_grad()
def walk(model, image, codes):
    """log p(x | z) (N,), and log q and log p of each layer (N, L), of the codes given."""
    N, L = len(codes[0]), model.settings.layers
    reals = pixels_to_reals(image).expand(N, -1, -1, -1)
    log_q, log_p = torch.zeros(N, L).double(), torch.zeros(N, L).double()

    def log_of(table, index):
        return table.gather(-1, codes[index].unsqueeze(-1)).double().flatten(1).sum(1)

    if isinstance(model, HierarchicalVAE):
        features, state = model.encoder(reals), model.decoder.top(N)
        for index in reversed(range(L)):
            layer = model.layers[index]
            q = layer.latent.log_posterior(layer.posterior(features[index], state))
            log_q[:, index] = log_of(q, index)
            log_p[:, index] = log_of(layer.latent.log_prior(layer.prior(state)), index)
            state = layer.decode(state, layer.latent.lookup(codes[index]))
        parameters = model.decoder.head(state)
    else:
        log_q[:, 0] = log_of(model.latent.log_posterior(model.encoder(reals)), 0)
        log_p[:, 0] = -model.settings.positions * math.log(model.settings.latent.size(0))
        parameters = model.decoder(model.latent.lookup(codes[0]))
    log_x = model.likelihood.log_prob(image.expand(N, -1, -1, -1), parameters).double()
    return log_x, log_q, log_p


def row_of(settings, codes):
    """Where drawn codes stand in `all_codes`."""
    row = torch.zeros(len(codes[0]), dtype=torch.int64)
    for layer, (_, K) in zip(codes, settings.alphabets, strict=True):
        for digit in layer.flatten(1).unbind(1):
            row = row * K + digit
    return row


@pytest.fixture(scope="module", params=[*HIERARCHIES, "one-layer"])
def enumerated(request):
    settings = {**HIERARCHIES, "one-layer": ONE_LAYER}[request.param]
    # Of a few seeds the one whose importance weights vary little, so that 10,000 draws suffice.
    model, image = lively(settings, seed=3), random_images(1, settings.image_size)
    with torch.no_grad():
        model.likelihood.log_scale.fill_(-1.3)
    codes = all_codes(settings)
    log_x, log_q, log_p = walk(model, image, codes)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = model(image.expand(DRAWS, -1, -1, -1))
    return model, image, codes, log_x, log_q, log_p, drawn


def test_posterior_and_prior_are_distributions_over_all_states(enumerated):
    _, _, _, _, log_q, log_p, _ = enumerated
    assert log_q.sum(1).logsumexp(0).item() == pytest.approx(0, abs=1e-5)
    assert log_p.sum(1).logsumexp(0).item() == pytest.approx(0, abs=1e-5)
    assert log_q.sum(1).exp().max() < 0.9  # the tests below would see little of a one-hot posterior


def test_elbo_and_importance_weighted_bounds_bound_the_evidence(enumerated):
    _, _, _, log_x, log_q, log_p, drawn = enumerated
    log_q, log_p = log_q.sum(1), log_p.sum(1)
    evidence = (log_x + log_p).logsumexp(0).item()
    elbo = (log_q.exp() * (log_x + log_p - log_q)).sum().item()
    posterior = log_x + log_p - evidence
    gap = (log_q.exp() * (log_q - posterior)).sum().item()  # KL(q || true posterior)
    assert gap > 0.1 and elbo == pytest.approx(evidence - gap, abs=1e-3)

    error = (drawn.elbo.std() / math.sqrt(DRAWS)).item()
    assert drawn.elbo.mean().item() == pytest.approx(elbo, abs=4 * error + 1e-4)
    weights = drawn.log_weight.double()
    error = (weights.std() / math.sqrt(DRAWS)).item()
    assert weights.mean().item() == pytest.approx(elbo, abs=4 * error + 1e-4)

    bounds = [importance_weighted_bound(weights.view(k, -1)).mean().item() for k in (1, 10, 100)]
    assert bounds == sorted(bounds)
    assert elbo - 4 * error <= bounds[0] and bounds[-1] <= evidence + 4 * error
    # All draws as one bound: the mean weight over p(x), whose exact variance is known too.
    ratio = (importance_weighted_bound(weights.view(-1, 1)) - evidence).exp().item()
    variance = (2 * posterior - log_q).exp().sum().item() - 1
    assert variance < 10
    assert ratio == pytest.approx(1, abs=4 * math.sqrt(variance / DRAWS) + 1e-4)
    assert evidence + math.log(ratio) > bounds[-1]


def test_drawn_terms_are_the_enumerated_ones(enumerated):
    model, _, _, log_x, log_q, log_p, drawn = enumerated
    row = row_of(model.settings, drawn.codes)
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(drawn.log_likelihood.double(), log_x[row], **close)
    torch.testing.assert_close(drawn.log_ratio.double(), (log_p - log_q).sum(1)[row], **close)


def test_codes_are_drawn_from_the_posterior(enumerated):
    model, _, _, _, log_q, _, drawn = enumerated
    q = log_q.sum(1).exp()
    counts = torch.bincount(row_of(model.settings, drawn.codes), minlength=len(q)).double()
    common = q * DRAWS > 8
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([q[common], q[~common].sum()[None] + 1e-9]) * DRAWS
    expected *= DRAWS / expected.sum()
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-4


def test_kl_of_each_layer_is_the_enumerated_one(enumerated):
    """E_q[log q_l - log p_l], and minus the log-ratio on average."""
    _, _, _, _, log_q, log_p, drawn = enumerated
    exact = (log_q.sum(1, keepdim=True).exp() * (log_q - log_p)).sum(0)
    kl = drawn.kl.double()
    error = kl.std(0) / math.sqrt(DRAWS)
    assert ((kl.mean(0) - exact).abs() <= 4 * error + 1e-4).all()
    error = (drawn.log_ratio.std() / math.sqrt(DRAWS)).item()
    assert drawn.log_ratio.mean().item() == pytest.approx(-exact.sum().item(), abs=4 * error + 1e-4)


def test_prior_samples_have_the_enumerated_frequencies():
    model = lively(TINY)
    codes = all_codes(TINY)
    _, _, log_p = walk(model, random_images(1, 4), codes)
    images = []  # decode_prior gives pixels, so states are told apart by their means
    with torch.no_grad():
        for batch in range(0, len(codes[0]), 81):
            keep = [
                latent.lookup(c[batch : batch + 81])
                for latent, c in zip(model.latents, codes, strict=True)
            ]
            images.append(model.decode_prior(81, keep=keep))
        known = torch.cat(images).flatten(1)
        torch.manual_seed(0)
        drawn = model.decode_prior(DRAWS).flatten(1)
    distance, state = torch.cdist(drawn.double(), known.double()).min(1)
    counts = torch.bincount(state, minlength=len(known)).double()
    assert distance.max() < 1e-4
    p = log_p.sum(1).exp()
    common = p * DRAWS > 8
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([p[common], p[~common].sum()[None] + 1e-9]) * DRAWS
    expected *= DRAWS / expected.sum()
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-4


def test_prior_knows_the_layers_above_and_nothing_of_the_image():
    model = lively(THREE)
    codes = [torch.zeros(2, s, s, 1, dtype=torch.int64) for s in THREE.pyramid]
    codes[1][1] = 2  # the second state differs in layer 2
    _, q_a, p_a = walk(model, random_images(1, 8, seed=0), codes)
    _, q_b, p_b = walk(model, random_images(1, 8, seed=1), codes)
    assert torch.equal(p_a, p_b)
    assert (q_a != q_b).all()  # the posterior of every layer sees the image
    assert p_a[0, 0] != p_a[1, 0] and q_a[0, 0] != q_a[1, 0]  # layer 1 sees layer 2,
    assert p_a[0, 2] == p_a[1, 2] and q_a[0, 2] == q_a[1, 2]  # and layer 3 does not


def test_codes_reach_the_pixels_from_every_layer():
    model = lively(THREE)
    codes = [torch.zeros(1, s, s, 1, dtype=torch.int64) for s in THREE.pyramid]
    image = random_images(1, 8)
    base = walk(model, image, codes)[0]
    for layer in range(3):
        others = [c.clone() for c in codes]
        others[layer][0, 0, 0] = 1
        assert walk(model, image, others)[0] != base


@each_model
def test_reconstruction_is_the_decoder_of_the_kept_vectors(settings):
    model, images = lively(settings), random_images(3, settings.image_size)
    inference = model.infer(images, None)
    kept = [draw.vectors for draw in inference.draws]
    torch.testing.assert_close(model.decode_prior(3, keep=kept), inference.parameters)
    assert torch.equal(model.decode(kept), inference.parameters)
    assert inference.parameters.shape == images.shape
    sides = [tuple(draw.kl.shape[1:]) for draw in inference.draws]
    assert sides == [(s, s) for s in settings.pyramid]
    torch.manual_seed(0)
    expected = model.likelihood.mean(model.infer(images, None).parameters)
    torch.manual_seed(0)
    assert torch.equal(model.reconstruct(images), expected)


def test_kept_layers_are_the_topmost():
    model = lively(THREE)
    codes = [torch.ones(1, s, s, 1, dtype=torch.int64) for s in THREE.pyramid]
    top = model.latents[2].lookup(codes[2])
    found = model.decode_prior(1, temperature=0.0, keep=[top])
    first, second, third = model.layers
    state = third.decode(model.decoder.top(1), top)
    for layer in (second, first):
        mode = layer.latent.log_prior(layer.prior(state)).argmax(-1)
        state = layer.decode(state, layer.latent.lookup(mode))
    torch.testing.assert_close(found, model.decoder.head(state))


@pytest.mark.parametrize("name", ["hierarchy", "gaussian-hierarchy"])
def test_samples_at_temperature_zero_are_the_mode(name):
    model = lively(ONE_OF_EACH[name])
    cold = model.sample(3, temperature=0.0)
    assert torch.equal(cold, model.sample(3, temperature=0.0))
    torch.testing.assert_close(cold[0], cold[1])
    warm = model.sample(3)
    assert warm.shape == (3, 3, 8, 8) and not torch.equal(warm[0], warm[1])
    assert not warm.requires_grad


@each_model
def test_kl_and_log_weight_are_consistent(settings):
    """Two estimates of one ELBO: the closed-form KL and the drawn log-ratio."""
    model = lively(settings)
    images = random_images(1, settings.image_size).expand(4000, -1, -1, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        terms = model(images)
    difference = (terms.elbo - terms.log_weight).double()
    bound = 4 * difference.std().item() / math.sqrt(4000) + 1e-3
    assert difference.mean().item() == pytest.approx(0, abs=bound)
    assert terms.kl.min() > -1e-4


@pytest.mark.parametrize("settings", [ONE_LAYER, changed(ONE_LAYER, latent="nearest")])
def test_kl_to_a_uniform_prior_never_exceeds_the_ceiling(settings):
    model = lively(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    kl = model(random_images(50, 4)).kl[:, 0]
    ceiling = settings.positions * math.log(settings.latent.size(0))
    assert (kl <= ceiling + 1e-3).all() and (kl > 0.9 * ceiling).any()
    assert ceiling / math.log(2) / settings.dims == pytest.approx(settings.rate_ceiling)


def test_one_layer_hierarchy_under_a_uniform_prior_obeys_the_ceiling():
    settings = changed(TINY, pyramid=(2,), top_prior="uniform")
    model = lively(settings)
    with torch.no_grad():
        model.layers[0].qladder.project.parametrizations.weight.original0.mul_(30)
    kl = model(random_images(50, 4)).kl[:, 0]
    assert (kl <= 4 * math.log(3) + 1e-4).all() and (kl > 2 * math.log(3)).any()


def assert_every_parameter_learns(model, images):
    terms = model.train()(images, WARM)
    training_loss(terms).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "as_printed", "fixed"])
@pytest.mark.parametrize("prior", ["embedding", "direct"])
@pytest.mark.parametrize("relaxation", ["straight-through", "soft"])
@pytest.mark.parametrize("decoder_input", ["add", "concat"])
@pytest.mark.parametrize("top_prior", ["learnt", "uniform"])
def test_every_parameter_of_a_hierarchy_gets_a_gradient(
    covariance, prior, relaxation, decoder_input, top_prior
):
    settings = changed(
        THREE,
        covariance=covariance,
        prior=prior,
        relaxation=relaxation,
        decoder_input=decoder_input,
        top_prior=top_prior,
    )
    assert_every_parameter_learns(lively(settings), random_images(4, 8))


@each_model
def test_every_parameter_of_every_model_gets_a_gradient(settings):
    assert_every_parameter_learns(lively(settings), random_images(4, settings.image_size))


@each_model
def test_training_steps_lower_the_loss(settings):
    torch.manual_seed(0)
    model, images = build(settings), random_images(8, settings.image_size)
    model.initialise(images)
    optimizer = torch.optim.Adam(model.parameters(), 3e-2, foreach=True)
    losses = []
    for _ in range(15):
        loss = training_loss(model(images, WARM))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < sum(losses[:3]) - 3


# Architectures of App. B, C and H.


def blocks_in(module):
    return sum(isinstance(m, ResidualBlock) for m in module.modules())


@pytest.mark.parametrize(("channels", "millions"), [(256, 85), (32, 2.4)])
def test_parameters_of_32_layers(channels, millions):
    settings = changed(ModelSettings(), pyramid=parse_sides("16*8,8*8,4*8,2*8"), channels=channels)
    with torch.device("meta"):  # shapes without numbers
        model = build(settings)
    codebooks = sum(p.numel() for latent in model.latents for p in latent.codebook.parameters())
    assert codebooks == 32 * 256 * (32 + 1)
    networks = sum(p.numel() for p in model.parameters()) - codebooks
    assert networks / 1e6 == pytest.approx(millions, rel=0.02)


def test_five_layers_as_in_app_c():
    settings = changed(
        ModelSettings(),
        pyramid=(16, 8, 4, 2, 1),
        codebook_size=(8,),
        embedding_dim=4,
        channels=8,
        blocks=4,
        ladder_blocks=4,
    )
    model = build(settings)
    assert [blocks_in(enc) for enc in model.encoder.enc] == [0, 4, 4, 4, 4]
    layers = model.layers
    assert all(blocks_in(layer.dec) == 4 for layer in layers)
    for layer in layers:
        parts = (layer.qladder, layer.qstrap, layer.pstrap, layer.pladder)
        assert [blocks_in(part) for part in parts] == [4, 4, 4, 4]
    for layer in layers[:-1]:  # straps and dec upscale by transposed convolutions of stride 2
        for first in (layer.qstrap.blocks[0], layer.pstrap.blocks[0], layer.dec[0]):
            assert first.first.stride == (2, 2) and isinstance(first.first, nn.ConvTranspose2d)
    assert isinstance(model.decoder.head[-1], nn.ConvTranspose2d)
    assert model.decoder.head[-1].stride == model.encoder.enc[0][0].stride == (2, 2)
    terms = model(random_images(2, 32))
    assert terms.kl.shape == (2, 5) and terms.codes[4].shape == (2, 1, 1, 1)


def test_straps_and_ladders_of_deep_hierarchies_are_single_convolutions():
    model = build(changed(THREE, pyramid=(4, 4, 2, 2), channels=8))
    for layer, factor in zip(model.layers, (1, 2, 1, 1), strict=True):
        assert blocks_in(layer.qladder) == blocks_in(layer.qstrap) == blocks_in(layer.pladder) == 0
        for strap in (layer.qstrap, layer.pstrap):
            assert strap.project.stride == (factor, factor)
        assert blocks_in(layer.dec) == 1


@pytest.mark.parametrize("pyramid", [(16, 8, 4, 2, 1), (32, 16, 16, 8)])
@pytest.mark.parametrize("changes", [{"codebook_size": (8,)}, {"latent": "gaussian"}])
def test_images_of_64_pixels(pyramid, changes):
    base = changed(ModelSettings(), image_size=64, pyramid=pyramid, embedding_dim=4, channels=8)
    model = build(changed(base, **changes))
    terms = model(random_images(2, 64))
    assert [tuple(kl.shape) for kl in terms.kl_maps] == [(2, s, s) for s in pyramid]
    assert terms.elbo.isfinite().all()
    assert model.sample(2).shape == (2, 3, 64, 64)


@pytest.mark.parametrize("pyramid", [(8, 2), (4, 1), (8, 8, 1)])
def test_layers_may_shrink_by_more_than_two(pyramid):
    settings = changed(THREE, image_size=16, pyramid=pyramid)
    model = lively(settings)
    terms = model(random_images(2, 16))
    assert [tuple(kl.shape) for kl in terms.kl_maps] == [(2, s, s) for s in pyramid]


@pytest.mark.parametrize(("network", "whole"), [("mlp", True), ("conv", False)])
def test_an_mlp_sees_the_whole_image_from_every_latent(network, whole):
    model = lively(changed(ONE_LAYER, network=network, image_size=16, pyramid=(8,), blocks=1))
    vectors = torch.zeros(2, 2, 8, 8)
    vectors[1, :, 0, 0] = 5
    pixels = (model.decoder(vectors)[0] - model.decoder(vectors)[1]).abs().sum(0)
    assert (pixels[-1, -1] > 0) == whole and pixels[0, 0] > 0


@each_model
def test_autocast_gives_finite_terms_in_float32(settings):
    model, images = lively(settings), random_images(4, settings.image_size)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model(images, WARM)
        loss = training_loss(terms)
    assert terms.log_likelihood.dtype == terms.kl.dtype == torch.float32
    loss.backward()
    assert loss.isfinite()


# Initialisation.


@each_model
def test_initialise_sets_every_layer_s_mean_and_spread(settings):
    torch.manual_seed(0)
    model, images = build(settings), random_images(64, settings.image_size)
    torch.manual_seed(1)
    model.initialise(images)
    assert model.training
    model.eval()
    torch.manual_seed(1)  # the same samples again
    seen = output_statistics(model, lambda: model.infer(images, WARM))
    layers = [m for m in model.modules() if hasattr(m, "init_scale")]
    assert len(seen) == len(layers) > 3
    constant = []
    for name, (mean, std, scale) in seen.items():
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
        if (std == 0).all():
            constant.append(name)
        else:
            torch.testing.assert_close(std, torch.full_like(std, scale), atol=0, rtol=2e-2)
    # Behind the learnt vector, which starts at 0, nothing varies yet.
    top = "decoder.layers.2."
    expected = ["qstrap.project", "pstrap.project", "dec.0.first", "dec.0.second"]
    is_hierarchy = settings.kind == "hierarchy"
    assert sorted(constant) == (sorted(top + e for e in expected) if is_hierarchy else [])


@pytest.mark.parametrize("model_name", ["hierarchy", "relaxed-vqvae", "vqvae"])
def test_kmeans_init_puts_codes_among_the_features_that_reach_them(model_name, monkeypatch):
    settings = changed(ONE_OF_EACH[model_name], codebook_init="kmeans", codebook_size=(8,))
    torch.manual_seed(0)
    model, images = build(settings), random_images(64, settings.image_size)
    model.initialise(images)
    for latent in model.latents:  # a VQ-VAE's averages must not pull its codes back
        if isinstance(latent, NearestLatent):
            average = latent.average
            start = average.sums / average.counts.unsqueeze(1)
            torch.testing.assert_close(start, latent.codebook.means.detach())
    noted = note_draws(model, monkeypatch)
    with torch.no_grad():
        model.eval().infer(images, WARM)
    assert len(noted) == settings.layers
    for latent, posterior, _ in noted:
        features = posterior.permute(0, 2, 3, 1).flatten(0, 2)
        distances = torch.cdist(features, latent.codebook.means).square()
        variance = (features - features.mean(0)).square().sum(1).mean()
        assert distances.min(1).values.mean() < 0.6 * variance
        assert (distances.argmin(0).unique().numel()) >= 4


def test_initialise_draws_nothing_into_the_gradient():
    torch.manual_seed(0)
    model = build(THREE)
    model.initialise(random_images(8, 8))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# Files.


@each_model
def test_saved_models_come_back_bit_for_bit(settings, tmp_path):
    model = lively(settings)
    model.save_pretrained(tmp_path)
    copy = type(model).from_pretrained(tmp_path)
    assert type(copy) is type(model) and copy.settings == settings
    state = model.state_dict()
    assert list(copy.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in copy.state_dict().items())
    images = random_images(2, settings.image_size)
    torch.manual_seed(0)
    expected = model(images).elbo
    torch.manual_seed(0)
    assert torch.equal(copy.eval()(images).elbo, expected)


def test_a_pickle_from_the_hub_is_not_loaded(tmp_path, monkeypatch):
    lively(THREE).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    fetched = []

    def snapshot(repo_id, allow_patterns, **_):
        fetched.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    assert HierarchicalVAE.from_pretrained("someone/model").settings == THREE
    weights.rename(tmp_path / "pytorch_model.bin")  # a repository that has only this
    with pytest.raises(UserError, match=r"model.safetensors is missing; .*copy the files anew"):
        HierarchicalVAE.from_pretrained("someone/model")
    assert not any("bin" in pattern for patterns in fetched for pattern in patterns)


def test_config_json_holds_the_settings_of_the_model(tmp_path):
    lively(THREE).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored == json.loads(json.dumps(asdict(THREE)))
    assert {p.name for p in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}


BUILT = {"hierarchy": HierarchicalVAE, "one-layer": OneLayerVAE}


@pytest.mark.parametrize("name", MODELS)
def test_build_knows_every_model_by_name(name):
    assert type(build(changed(ONE_LAYER, model=name))) is BUILT[name]


@pytest.mark.parametrize("name", LATENTS)
def test_build_knows_every_kind_of_latent_by_name(name):
    model = build(changed(THREE, latent=name))
    assert [type(latent) for latent in model.latents] == 3 * [LATENTS[name].load()]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_build_knows_every_likelihood_by_name(name):
    assert type(build(changed(THREE, likelihood=name)).likelihood) is LIKELIHOODS[name].load()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_build_knows_every_objective_by_name(name):
    expected = OBJECTIVES[name].load() if OBJECTIVES[name].made_by else None
    assert build(changed(ONE_LAYER, objective=name)).training_terms is expected


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_build_knows_every_second_stage_by_name(name):
    pyramid = (2, 1) if name == "greedy" else (2,)
    model = build(changed(ONE_LAYER, second_stage=name, pyramid=pyramid))
    if name == "none":
        assert isinstance(model, OneLayerVAE)
    else:
        assert isinstance(model, TwoStageVAE) and isinstance(model.first, OneLayerVAE)
        assert type(model.code_prior) is SECOND_STAGES[name].load()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@each_model
def test_what_learns_at_the_codebooks_rate_are_codebooks_and_likelihood(settings, likelihood):
    model = build(changed(settings, likelihood=likelihood))
    fast = {id(parameter) for parameter in model.fast_parameters()}
    by_name = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if ".codebook" in name or name.startswith("likelihood.")
    }
    assert fast == by_name


# What a GPU needs.

SMALL = changed(
    ModelSettings(), image_size=8, pyramid=(4, 2), codebook_size=(4,), embedding_dim=3, channels=6
)


@pytest.mark.parametrize("decoder_input", ["add", "concat"])
def test_every_convolution_gets_its_maps_channels_last(decoder_input):
    model = build(changed(SMALL, pyramid=(4, 4, 2), decoder_input=decoder_input))
    seen = []

    def note(module, inputs):
        (maps,) = inputs
        seen.append(maps.is_contiguous(memory_format=torch.channels_last))

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            module.register_forward_pre_hook(note)
    images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    model(images.contiguous(memory_format=torch.channels_last), torch.ones(()))
    assert len(seen) > 20 and all(seen)


@pytest.mark.parametrize("changes", [{}, {"model": "one-layer", "pyramid": (4,), "network": "mlp"}])
def test_means_of_pixels_keep_their_precision_under_autocast(changes):
    model = build(changed(SMALL, **changes))
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.infer(images, torch.ones(())).parameters.dtype == torch.float32


@pytest.mark.parametrize("latent", ["gaussian", "binary", "relaxed"])
def test_noise_does_not_depend_on_the_memory_layout(latent):
    model = build(changed(SMALL, latent=latent))
    images = random_images(3, 8)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        found.append(model(images.contiguous(memory_format=layout)).elbo)
    torch.testing.assert_close(*found)


@each_model
def test_no_product_of_float32_is_rounded_to_tf32(settings, monkeypatch):
    """Nor in initialisation, samples and reconstructions; afterwards torch is as it was."""
    # Not torch.backends.cuda.matmul, too: it cannot be patched, and its default is no TF32.
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    model, seen = build(settings), []

    def note(*_):
        seen.append(cudnn.allow_tf32)

    for layer in model.modules():
        if isinstance(layer, Normed):
            layer.register_forward_hook(note)
    images = random_images(4, settings.image_size)
    for call in (model.initialise, model.reconstruct, lambda _: model.sample(2)):
        del seen[:]
        call(images)
        assert seen and not any(seen)
        assert cudnn.allow_tf32


@pytest.mark.parametrize(
    "switch",
    [
        "",
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.cudnn.allow_tf32 = False",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch.backends.cudnn.fp32_precision = 'ieee'",
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    ],
)
def test_torch_s_precision_is_as_the_caller_set_it_by_either_way(switch):
    """In a process of its own: torch refuses to look once both ways have been used."""
    code = f"""
import torch
from rrvqlib.numerics import true_float32
def look(one):
    try: return one()
    except RuntimeError: return "refused"
backends = torch.backends
def state():
    new = [x.fp32_precision for x in (backends, backends.cuda.matmul, backends.cudnn.conv)]
    return new, look(torch.get_float32_matmul_precision), look(lambda: backends.cudnn.allow_tf32)
{switch}
before = state()
with true_float32():
    inside = [x.fp32_precision for x in (backends.cuda.matmul, backends.cudnn.conv)]
    assert "tf32" not in inside, inside
    # What torch.compile reads, where the caller has left the newer way alone.
    assert before[1:].count("refused") or state()[1:] == ("highest", False)
assert state() == before, (before, state())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
