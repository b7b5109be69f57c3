"""What one layer's posterior and prior give: KL, log-ratio, vectors, losses, gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import PRIORS, normal
from scipy import stats
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from rrvqlib.latents import (
    BinaryLatent,
    GaussianLatent,
    GaussianMixtureLatent,
    NearestLatent,
    RelaxedLatent,
    ResidualLatent,
    ScalarLatent,
    StochasticLatent,
    channels_first,
    channels_last,
)
from rrvqlib.latents.codebook import Codebook

WARM = torch.tensor(1.0)


def relaxed_latent(prior="embedding", K=6, D=4, **options):
    torch.manual_seed(0)
    codebook = Codebook(K, D, init="unit")
    with torch.no_grad():
        codebook.raw_log_variances.copy_(0.3 * torch.randn(K))
    return RelaxedLatent(codebook, prior, **options)


def nearest_latent(update="loss", dead_code_threshold=0.0, K=6, D=4, commitment=0.25):
    torch.manual_seed(0)
    codebook = Codebook(K, D, "fixed", "unit")
    return NearestLatent(codebook, update, commitment, 0.9, dead_code_threshold)


def stochastic_latent(K=6, D=4):
    torch.manual_seed(0)
    codebook = Codebook(K, D, "shared", "unit")
    with torch.no_grad():
        codebook.raw_log_variances.fill_(-0.4)
    return StochasticLatent(codebook, "embedding")


def test_channels_first_and_last_are_inverse():
    maps = normal(2, 3, 4, 5)
    assert channels_last(maps).shape == (2, 4, 5, 3)
    assert torch.equal(channels_first(channels_last(maps)), maps)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("temperature", [None, WARM])
def test_relaxed_draws(prior, temperature):
    latent = relaxed_latent(prior)
    e, parameters = normal(3, 4, 2, 5), normal(3, latent.prior_size, 2, 5, seed=1)
    draw = latent.draw(e, parameters, temperature)
    q = Categorical(logits=latent.log_posterior(e))
    p = Categorical(logits=latent.log_prior(parameters))
    torch.testing.assert_close(draw.kl, kl_divergence(q, p).squeeze(-1), atol=1e-5, rtol=1e-5)
    assert draw.codes.shape == (3, 2, 5, 1) and draw.vq_loss is None
    looked_up = latent.codebook.means[draw.codes.squeeze(-1)].permute(0, 3, 1, 2)
    assert torch.equal(draw.vectors, looked_up)
    assert torch.equal(latent.lookup(draw.codes), looked_up)
    if temperature is None:
        ratio = (p.log_prob(draw.codes) - q.log_prob(draw.codes)).sum((1, 2, 3))
        torch.testing.assert_close(draw.log_ratio, ratio, atol=1e-4, rtol=1e-5)
    else:
        assert draw.log_ratio is None


def test_soft_samples_are_drawn_only_while_training():
    latent = relaxed_latent(relaxation="soft")
    e, parameters = normal(3, 4, 2, 5), normal(3, 4, 2, 5, seed=1)
    means = latent.codebook.means.detach()

    def distance(temperature):
        vectors = latent.draw(e, parameters, temperature).vectors
        return torch.cdist(channels_last(vectors).flatten(0, 2), means).min(1).values.max()

    assert distance(WARM) > 0.05
    assert distance(None) < 1e-3  # what cdist rounds


def test_log_ratio_is_minus_the_kl_on_average():
    latent = relaxed_latent()
    e, parameters = normal(1, 4, 2, 2), normal(1, 4, 2, 2, seed=1)
    repeated = (e.expand(20_000, -1, -1, -1), parameters.expand(20_000, -1, -1, -1))
    torch.manual_seed(0)
    draw = latent.draw(*repeated, None)
    error = draw.log_ratio.std().item() / math.sqrt(20_000)
    expected = -draw.kl[0].sum().item()
    assert draw.log_ratio.mean().item() == pytest.approx(expected, abs=4 * error)


def test_prior_samples_have_the_prior_probabilities_and_temperature_zero_its_mode():
    latent = relaxed_latent(K=4)
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
    latent = relaxed_latent()
    e = normal(3, 4, 2, 2)
    draw = latent.draw(e, e.clone(), None)
    assert draw.kl.abs().max() < 1e-6 and draw.log_ratio.abs().max() < 1e-5


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_nearest_draws_are_those_of_the_vq_vae_written_out(update):
    latent = nearest_latent(update).eval()
    features = normal(3, 4, 2, 5).requires_grad_()
    draw = latent.draw(features, torch.empty(3, 0, 2, 5), None)
    means = latent.codebook.means.detach().numpy()
    rows = channels_last(features).detach().numpy()
    squares = ((rows[..., None, :] - means) ** 2).sum(-1)
    np.testing.assert_array_equal(draw.codes.squeeze(-1).numpy(), squares.argmin(-1))
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
    draw = latent.draw(features, torch.empty(3, 0, 2, 5), None)
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
    latent.draw(features, torch.empty(3, 0, 2, 5), None)
    assert torch.equal(latent.codebook.means, before)
    latent.train()
    codes = latent.draw(features, torch.empty(3, 0, 2, 5), WARM).codes
    k = codes[0, 0, 0, 0]
    rows = channels_last(features)[codes.squeeze(-1) == k]
    expected = (0.9 * before[k] + 0.1 * rows.sum(0)) / (0.9 + 0.1 * len(rows))
    torch.testing.assert_close(latent.codebook.means[k], expected, atol=1e-4, rtol=1e-4)


def test_vectors_are_looked_up_before_the_codes_move():
    latent, features = nearest_latent("ema"), normal(3, 4, 2, 5)
    before = latent.codebook.means.detach().clone()
    draw = latent.train().draw(features, torch.empty(3, 0, 2, 5), WARM)
    expected = before[draw.codes.squeeze(-1)].permute(0, 3, 1, 2)
    torch.testing.assert_close(draw.vectors, expected, atol=1e-6, rtol=1e-6)
    assert not torch.equal(latent.codebook.means, before)


def test_a_loss_can_be_differentiated_after_a_dead_code_has_moved():
    latent = nearest_latent("loss", dead_code_threshold=5.0).train()
    features = normal(3, 4, 2, 5).requires_grad_()
    latent.average.counts.zero_()
    draw = latent.draw(features, torch.empty(3, 0, 2, 5), WARM)
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
    latent = GaussianLatent(3, learnt_prior=learnt)
    assert (latent.posterior_size, latent.vector_size) == (6, 3)
    assert latent.prior_size == (6 if learnt else 0)
    posterior, prior = normal(2, 6, 4, 5), normal(2, latent.prior_size, 4, 5, seed=1)
    draw = latent.draw(posterior, prior, temperature)
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
    latent = GaussianLatent(1, learnt_prior=False)
    posterior = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(20_000, -1, -1, -1)
    torch.manual_seed(0)
    z = latent.draw(posterior, torch.empty(20_000, 0, 1, 1), None).vectors.flatten()
    assert stats.kstest(z.numpy(), stats.norm(2, math.exp(-1)).cdf).pvalue > 1e-3


def test_gaussian_samples_follow_prior_and_temperature():
    latent = GaussianLatent(1, learnt_prior=True)
    prior = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(20_000, -1, -1, -1)
    assert (latent.sample(prior, 0.0) == 2).all()
    torch.manual_seed(0)
    z = latent.sample(prior, 0.5).flatten()
    assert stats.kstest(z.numpy(), stats.norm(2, 0.5 * math.exp(-1)).cdf).pvalue > 1e-3


def test_extreme_standard_deviations_stay_finite():
    latent = GaussianLatent(1, learnt_prior=True)
    posterior = torch.tensor([0.0, 500.0]).view(1, 2, 1, 1)
    draw = latent.draw(posterior, -posterior, None)
    assert draw.kl.isfinite().all() and draw.log_ratio.isfinite().all()


@pytest.mark.parametrize("kind", ["relaxed", "residual", "nearest", "mixture", "gaussian"])
def test_formulas_stay_in_float32_under_autocast(kind):
    latent = {
        "relaxed": relaxed_latent(),
        "nearest": nearest_latent().eval(),
        "residual": ResidualLatent([Codebook(6, 4, "shared", "unit") for _ in range(2)]),
        "mixture": GaussianMixtureLatent(Codebook(6, 4, "fixed", "unit")),
        "gaussian": GaussianLatent(4, learnt_prior=True),
    }[kind]
    posterior = normal(2, latent.posterior_size, 2, 2).bfloat16()
    prior = normal(2, latent.prior_size, 2, 2, seed=1).bfloat16()
    torch.manual_seed(1)  # a residual's KL depends on the codes drawn
    with torch.autocast("cpu", torch.bfloat16):
        draw = latent.draw(posterior, prior, None)
    torch.manual_seed(1)
    exact = latent.draw(posterior.float(), prior.float(), None)
    assert draw.kl.dtype == torch.float32 and draw.log_ratio.dtype == torch.float32
    torch.testing.assert_close(draw.kl, exact.kl)


def test_what_a_decoder_sees_is_exactly_a_code():
    latent = nearest_latent()
    features = normal(3, 4, 5, 5).requires_grad_()
    draw = latent.draw(features, torch.empty(3, 0, 5, 5), WARM)
    assert torch.equal(draw.vectors, latent.lookup(draw.codes))
    (gradient,) = torch.autograd.grad(draw.vectors.sum(), features)
    assert (gradient == 1).all()


# What all latents that are symbols have: at every position G of them, with K values each.

SYMBOLS = {
    **{f"relaxed-{prior}": lambda prior=prior: relaxed_latent(prior, K=3) for prior in PRIORS},
    "stochastic": lambda: stochastic_latent(K=3),
    "nearest": lambda: nearest_latent(K=3).eval(),
    "scalar": lambda: ScalarLatent((3, 4)),
    "binary-learnt": lambda: BinaryLatent(4, learnt_prior=True),
    "binary-fair": lambda: BinaryLatent(4, learnt_prior=False),
}
each_kind_of_symbol = pytest.mark.parametrize("make", SYMBOLS.values(), ids=SYMBOLS)


def parameters_of(latent, B=3, H=2, W=5):
    """Of a posterior and of a prior."""
    posterior = normal(B, latent.posterior_size, H, W)
    return posterior, normal(B, latent.prior_size, H, W, seed=1)


def all_symbols(latent):
    """Every state of a position: int64 (K^G, G)."""
    states = itertools.product(range(latent.values), repeat=latent.symbols)
    return torch.tensor(list(states))


def log_of_states(latent, table):
    """Log-probabilities (B, H, W, G, K) -> those of all states of a position (K^G, B, H, W)."""
    rows = [
        sum(table[..., symbol, value] for symbol, value in enumerate(state))
        for state in all_symbols(latent).tolist()
    ]
    return torch.stack(rows)


@each_kind_of_symbol
def test_every_symbol_has_a_posterior_and_a_prior(make):
    latent = make()
    posterior, prior = parameters_of(latent)
    for table in (latent.log_posterior(posterior), latent.log_prior(prior)):
        assert table.shape == (3, 2, 5, latent.symbols, latent.values)
        assert table.dtype == torch.float32
        torch.testing.assert_close(table.exp().sum(-1), torch.ones(table.shape[:-1]))


def test_bits_are_symbols_of_two_values():
    latent = BinaryLatent(4, learnt_prior=True)
    assert (latent.symbols, latent.values, latent.vector_size) == (4, 2, 4)
    logits, _ = parameters_of(latent)
    one = latent.log_posterior(logits)[..., 1].exp()  # code 1 is the bit +1
    torch.testing.assert_close(one, channels_last(logits).sigmoid())
    bits = latent.lookup(torch.tensor([[[[0, 1, 1, 0]]]]))
    assert bits.flatten().tolist() == [-1, 1, 1, -1]


@each_kind_of_symbol
@pytest.mark.parametrize("temperature", [None, WARM])
def test_kl_of_symbols_is_the_sum_over_all_states(make, temperature):
    latent = make()
    posterior, prior = parameters_of(latent)
    log_q = log_of_states(latent, latent.log_posterior(posterior))
    log_p = log_of_states(latent, latent.log_prior(prior))
    terms = log_q.exp() * (log_q - log_p)
    exact = torch.where(log_q > -math.inf, terms, 0.0).sum(0)  # 0 log 0 = 0
    kl = latent.draw(posterior, prior, temperature).kl
    torch.testing.assert_close(kl, exact, atol=1e-5, rtol=1e-5)


@each_kind_of_symbol
def test_draws_of_symbols_are_looked_up_and_weighed(make):
    latent = make()
    posterior, prior = parameters_of(latent)
    draw = latent.draw(posterior, prior, None)
    assert draw.codes.dtype == torch.int64 and draw.codes.shape == (3, 2, 5, latent.symbols)
    assert torch.equal(draw.vectors, latent.lookup(draw.codes))
    log_q, log_p = (
        table.gather(-1, draw.codes.unsqueeze(-1)).flatten(1).sum(1)
        for table in (latent.log_posterior(posterior), latent.log_prior(prior))
    )
    torch.testing.assert_close(draw.log_ratio, log_p - log_q, atol=1e-4, rtol=1e-5)
    if draw.prior_entropy is not None:
        log_p = log_of_states(latent, latent.log_prior(prior))
        entropy = -(log_p.exp() * log_p).sum(0)
        torch.testing.assert_close(draw.prior_entropy, entropy, atol=1e-5, rtol=1e-5)
    assert (draw.prior_entropy is None) == isinstance(latent, (NearestLatent, ScalarLatent))


@each_kind_of_symbol
def test_looking_up_codes_and_finding_them_again_are_inverse(make):
    latent = make()
    codes = all_symbols(latent).view(1, -1, 1, latent.symbols)  # every state, one above the other
    vectors = latent.lookup(codes)
    assert vectors.shape == (1, latent.vector_size, codes.shape[1], 1)
    assert torch.equal(latent.codes_of(vectors), codes)
    assert torch.equal(latent.lookup(latent.codes_of(vectors)), vectors)
    assert len(channels_last(vectors).flatten(0, 2).unique(dim=0)) == codes.shape[1]


@pytest.mark.parametrize("kind", SYMBOLS.keys() - {"nearest", "scalar"})
def test_samples_of_symbols_at_temperature_zero_are_the_prior_s_mode(kind):
    latent = SYMBOLS[kind]()
    _, prior = parameters_of(latent)
    mode = latent.log_prior(prior).argmax(-1)
    assert torch.equal(latent.sample(prior, 0.0), latent.lookup(mode))


def test_raw_log_variances_are_the_parameters_and_not_their_clamped_values():
    latent = relaxed_latent()
    with torch.no_grad():
        latent.codebook.raw_log_variances.fill_(9.0)
    (raw,) = latent.raw_log_variances()
    assert raw is latent.codebook.raw_log_variances and (raw == 9).all()
    assert (latent.codebook.log_variances == 5).all()
    assert not list(nearest_latent().raw_log_variances())
    assert latent.prior_kind == "embedding"
