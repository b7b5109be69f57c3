"""What one layer's posterior and prior give: KL, log-ratio, vectors, penalties, gradients."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from rrvqlib.latents import (
    GaussianLatent,
    NearestLatent,
    RelaxedLatent,
    channels_first,
    channels_last,
)
from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.priors import PRIORS

WARM = torch.tensor(1.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codebook_latent(prior="embedding", K=6, D=4, **options):
    torch.manual_seed(0)
    codebook = Codebook(K, D, init="unit")
    with torch.no_grad():
        codebook.raw_log_variances.copy_(0.3 * torch.randn(K))
    return RelaxedLatent(codebook, prior, **options)


def nearest_latent(update="loss", dead_code_threshold=0.0, K=6, D=4, commitment=0.25):
    torch.manual_seed(0)
    codebook = Codebook(K, D, "fixed", "unit")
    return NearestLatent(codebook, update, commitment, 0.9, dead_code_threshold)


def test_channels_first_and_last_are_inverse():
    maps = normal(2, 3, 4, 5)
    assert channels_last(maps).shape == (2, 4, 5, 3)
    assert torch.equal(channels_first(channels_last(maps)), maps)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("temperature", [None, WARM])
def test_codebook_draws(prior, temperature):
    latent = codebook_latent(prior)
    e, parameters = normal(3, 4, 2, 5), normal(3, latent.prior_size, 2, 5, seed=1)
    draw = latent(e, parameters, temperature)
    q = Categorical(logits=latent.log_posterior(e))
    p = Categorical(logits=latent.log_prior(parameters))
    torch.testing.assert_close(draw.kl, kl_divergence(q, p), atol=1e-5, rtol=1e-5)
    assert draw.codes.shape == (3, 2, 5) and draw.vq_loss is None
    looked_up = latent.codebook.means[draw.codes].permute(0, 3, 1, 2)
    assert torch.equal(draw.vectors, looked_up)
    assert torch.equal(latent.lookup(draw.codes), looked_up)
    if temperature is None:
        ratio = (p.log_prob(draw.codes) - q.log_prob(draw.codes)).sum((1, 2))
        torch.testing.assert_close(draw.log_ratio, ratio, atol=1e-4, rtol=1e-5)
    else:
        assert draw.log_ratio is None


def test_soft_samples_are_drawn_only_while_training():
    latent = codebook_latent(relaxation="soft")
    e, parameters = normal(3, 4, 2, 5), normal(3, 4, 2, 5, seed=1)
    means = latent.codebook.means.detach()

    def distance(temperature):
        vectors = latent(e, parameters, temperature).vectors
        return torch.cdist(channels_last(vectors).flatten(0, 2), means).min(1).values.max()

    assert distance(WARM) > 0.05
    assert distance(None) < 1e-3  # what cdist rounds


def test_log_ratio_is_minus_the_kl_on_average():
    latent = codebook_latent()
    e, parameters = normal(1, 4, 2, 2), normal(1, 4, 2, 2, seed=1)
    repeated = (e.expand(20_000, -1, -1, -1), parameters.expand(20_000, -1, -1, -1))
    torch.manual_seed(0)
    draw = latent(*repeated, None)
    error = draw.log_ratio.std().item() / math.sqrt(20_000)
    expected = -draw.kl[0].sum().item()
    assert draw.log_ratio.mean().item() == pytest.approx(expected, abs=4 * error)


def test_prior_samples_have_the_prior_probabilities_and_temperature_zero_its_mode():
    latent = codebook_latent(K=4)
    parameters = normal(1, 4, 1, 1).expand(20_000, -1, -1, -1)
    p = latent.log_prior(parameters[:1]).exp().flatten().double()
    torch.manual_seed(0)
    vectors = latent.sample(parameters).flatten(1)
    codes = torch.cdist(vectors, latent.codebook.means).argmin(1)
    counts = torch.bincount(codes, minlength=4).numpy()
    assert stats.chisquare(counts, 20_000 * p.detach().numpy() / p.sum().item()).pvalue > 1e-3
    mode = latent.codebook.means[p.argmax()].expand(20_000, 4)
    assert torch.equal(latent.sample(parameters, 0.0).flatten(1), mode)


def test_posterior_and_prior_of_equal_embeddings_agree():
    latent = codebook_latent()
    e = normal(3, 4, 2, 2)
    draw = latent(e, e.clone(), None)
    assert draw.kl.abs().max() < 1e-6 and draw.log_ratio.abs().max() < 1e-5


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_nearest_draws_are_those_of_the_vq_vae_written_out(update):
    latent = nearest_latent(update).eval()
    features = normal(3, 4, 2, 5).requires_grad_()
    draw = latent(features, torch.empty(3, 0, 2, 5), None)
    means = latent.codebook.means.detach().numpy()
    rows = channels_last(features).detach().numpy()
    squares = ((rows[..., None, :] - means) ** 2).sum(-1)
    np.testing.assert_array_equal(draw.codes.numpy(), squares.argmin(-1))
    nearest = squares.min(-1).sum((1, 2))
    weight = 0.25 + (update == "loss")
    np.testing.assert_allclose(draw.vq_loss.detach().numpy(), weight * nearest, rtol=1e-4)
    np.testing.assert_allclose(draw.kl, math.log(6), rtol=1e-6)
    np.testing.assert_allclose(draw.log_ratio, -10 * math.log(6), rtol=1e-6)
    torch.testing.assert_close(draw.vectors, latent.lookup(draw.codes), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_nearest_gradients(update):
    """Straight through to the features; commitment pulls features, the loss pulls codes."""
    latent = nearest_latent(update).eval()
    features = normal(3, 4, 2, 5).requires_grad_()
    draw = latent(features, torch.empty(3, 0, 2, 5), None)
    slope = normal(*draw.vectors.shape, seed=7)
    (straight,) = torch.autograd.grad((draw.vectors * slope).sum(), [features], retain_graph=True)
    assert torch.equal(straight, slope)
    gap = (features - latent.lookup(draw.codes)).detach()
    (pulled,) = torch.autograd.grad(draw.vq_loss.sum(), [features], retain_graph=True)
    torch.testing.assert_close(pulled, 2 * 0.25 * gap)
    assert latent.codebook.means.requires_grad == (update == "loss")
    if update == "loss":
        (codes,) = torch.autograd.grad(draw.vq_loss.sum(), [latent.codebook.means])
        expected = torch.zeros(6, 4)
        expected.index_add_(0, draw.codes.flatten(), -2 * channels_last(gap).flatten(0, 2))
        torch.testing.assert_close(codes, expected, atol=1e-5, rtol=1e-5)


def test_codes_move_by_averages_while_training_only():
    latent, features = nearest_latent("ema"), normal(3, 4, 2, 5)
    before = latent.codebook.means.clone()
    latent.eval()
    latent(features, torch.empty(3, 0, 2, 5), None)
    assert torch.equal(latent.codebook.means, before)
    latent.train()
    codes = latent(features, torch.empty(3, 0, 2, 5), WARM).codes
    rows = channels_last(features)[codes == codes[0, 0, 0]]
    k = codes[0, 0, 0]
    expected = (0.9 * before[k] + 0.1 * rows.sum(0)) / (0.9 + 0.1 * len(rows))
    torch.testing.assert_close(latent.codebook.means[k], expected, atol=1e-4, rtol=1e-4)


def test_vectors_are_looked_up_before_the_codes_move():
    latent, features = nearest_latent("ema"), normal(3, 4, 2, 5)
    before = latent.codebook.means.detach().clone()
    draw = latent.train()(features, torch.empty(3, 0, 2, 5), WARM)
    expected = before[draw.codes].permute(0, 3, 1, 2)
    torch.testing.assert_close(draw.vectors, expected, atol=1e-6, rtol=1e-6)
    assert not torch.equal(latent.codebook.means, before)


def test_a_loss_can_be_differentiated_after_a_dead_code_has_moved():
    latent = nearest_latent("loss", dead_code_threshold=5.0).train()
    features = normal(3, 4, 2, 5).requires_grad_()
    latent.average.counts.zero_()
    draw = latent(features, torch.empty(3, 0, 2, 5), WARM)
    (draw.vectors.square().sum() + draw.vq_loss.sum()).backward()
    assert features.grad.isfinite().all() and latent.codebook.means.grad.isfinite().all()


def test_nearest_samples_are_uniform_over_the_codes():
    latent = nearest_latent()
    torch.manual_seed(0)
    vectors = latent.sample(torch.empty(5000, 0, 2, 2), 0.0)
    assert vectors.shape == (5000, 4, 2, 2)
    codes = torch.cdist(channels_last(vectors).flatten(0, 2), latent.codebook.means).argmin(1)
    assert stats.chisquare(torch.bincount(codes, minlength=6).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("temperature", [None, WARM])
def test_gaussian_draws(learnt, temperature):
    latent = GaussianLatent(3, learnt)
    assert (latent.posterior_size, latent.vector_size) == (6, 3)
    assert latent.prior_size == (6 if learnt else 0)
    posterior, prior = normal(2, 6, 4, 5), normal(2, latent.prior_size, 4, 5, seed=1)
    draw = latent(posterior, prior, temperature)
    q = Independent(Normal(posterior[:, :3], posterior[:, 3:].exp()), 0)
    zeros = torch.zeros(2, 3, 4, 5)
    p = Normal(prior[:, :3], prior[:, 3:].exp()) if learnt else Normal(zeros, zeros + 1)
    kl = kl_divergence(q.base_dist, p).sum(1)
    torch.testing.assert_close(draw.kl, kl, atol=1e-4, rtol=1e-4)
    assert draw.codes is None and draw.vq_loss is None and draw.vectors.shape == (2, 3, 4, 5)
    if temperature is None:
        ratio = (p.log_prob(draw.vectors) - q.log_prob(draw.vectors)).sum((1, 2, 3))
        torch.testing.assert_close(draw.log_ratio, ratio, atol=1e-3, rtol=1e-4)


def test_gaussian_draws_have_the_posterior_s_mean_and_spread():
    latent = GaussianLatent(1, False)
    posterior = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(20_000, -1, -1, -1)
    torch.manual_seed(0)
    z = latent(posterior, torch.empty(20_000, 0, 1, 1), None).vectors.flatten()
    assert stats.kstest(z.numpy(), stats.norm(2, math.exp(-1)).cdf).pvalue > 1e-3


def test_gaussian_samples_follow_prior_and_temperature():
    latent = GaussianLatent(1, True)
    prior = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(20_000, -1, -1, -1)
    assert (latent.sample(prior, 0.0) == 2).all()
    torch.manual_seed(0)
    z = latent.sample(prior, 0.5).flatten()
    assert stats.kstest(z.numpy(), stats.norm(2, 0.5 * math.exp(-1)).cdf).pvalue > 1e-3


def test_extreme_standard_deviations_stay_finite():
    latent = GaussianLatent(1, True)
    posterior = torch.tensor([0.0, 500.0]).view(1, 2, 1, 1)
    draw = latent(posterior, -posterior, None)
    assert draw.kl.isfinite().all() and draw.log_ratio.isfinite().all()


@pytest.mark.parametrize("kind", ["codebook", "nearest", "gaussian"])
def test_formulas_stay_in_float32_under_autocast(kind):
    latent = {
        "codebook": codebook_latent(),
        "nearest": nearest_latent().eval(),
        "gaussian": GaussianLatent(4, True),
    }[kind]
    posterior = normal(2, latent.posterior_size, 2, 2).bfloat16()
    prior = normal(2, latent.prior_size, 2, 2, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        draw = latent(posterior, prior, None)
    exact = latent(posterior.float(), prior.float(), None)
    assert draw.kl.dtype == torch.float32 and draw.log_ratio.dtype == torch.float32
    torch.testing.assert_close(draw.kl, exact.kl)


def test_what_a_decoder_sees_is_exactly_a_code():
    latent = nearest_latent()
    features = normal(3, 4, 5, 5).requires_grad_()
    draw = latent(features, torch.empty(3, 0, 5, 5), WARM)
    assert torch.equal(draw.vectors, latent.lookup(draw.codes))
    (gradient,) = torch.autograd.grad(draw.vectors.sum(), features)
    assert (gradient == 1).all()
