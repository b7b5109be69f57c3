"""Samples against their probabilities; gradients against torch's own Gumbel-softmax."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rrvqlib.latents.draws import (
    categorical,
    gumbel_noise,
    gumbel_softmax,
    soft_vectors,
    straight_through_vectors,
)

EXACT = settings(derandomize=True, deadline=None, max_examples=40)
DRAWS = 100_000
PROBABILITIES = torch.tensor([0.5, 0.25, 0.15, 0.09, 0.01])


def assert_frequencies(codes, probabilities):
    """Pearson's test; with the seed fixed it says the same every time."""
    counts = torch.bincount(codes.flatten(), minlength=len(probabilities)).numpy()
    expected = np.asarray(probabilities, dtype=np.float64)
    assert stats.chisquare(counts, counts.sum() * expected / expected.sum()).pvalue > 1e-3


def test_gumbel_noise_has_the_gumbel_distribution():
    torch.manual_seed(0)
    noise = gumbel_noise(torch.empty(50_000))
    assert stats.kstest(noise.numpy(), stats.gumbel_r.cdf).pvalue > 1e-3


def test_gumbel_noise_is_finite_over_ten_million_draws():
    torch.manual_seed(1)
    assert (torch.rand(10_000_000) == 0).any()  # a uniform number would not do
    torch.manual_seed(1)
    noise = gumbel_noise(torch.empty(10_000_000))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(np.euler_gamma, abs=2e-3)
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=2e-3)


def test_gumbel_noise_has_shape_and_type_of_its_model_and_no_gradient():
    like = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    noise = gumbel_noise(like)
    assert noise.shape == (2, 3) and noise.dtype == torch.float64 and not noise.requires_grad


def test_categorical_draws_have_their_probabilities():
    torch.manual_seed(0)
    codes = categorical(PROBABILITIES.log().expand(DRAWS, 5))
    assert codes.shape == (DRAWS,) and codes.dtype == torch.int64
    assert_frequencies(codes, PROBABILITIES)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_raises_probabilities_to_a_power(temperature):
    torch.manual_seed(0)
    codes = categorical(PROBABILITIES.log().expand(DRAWS, 5), temperature)
    assert_frequencies(codes, PROBABILITIES ** (1 / temperature))


def test_each_position_is_drawn_from_its_own_distribution():
    torch.manual_seed(0)
    log_p = normal(2, 3, 4).log_softmax(-1)
    codes = categorical(log_p.expand(20_000, 2, 3, 4))
    for i in range(2):
        for j in range(3):
            assert_frequencies(codes[:, i, j], log_p[i, j].exp())


@EXACT
@given(seed=st.integers(0, 10_000), K=st.integers(1, 20))
def test_cold_draws_are_the_most_probable_code(seed, K):
    log_p = (3 * normal(50, K, seed=seed)).log_softmax(-1)
    assert torch.equal(categorical(log_p, 0), log_p.argmax(-1))
    cold = categorical(log_p, 1e-6)
    top = log_p.max(-1).values - log_p.gather(-1, cold[:, None])[:, 0]
    assert (top < 1e-3).all()


def test_impossible_codes_are_never_drawn():
    log_p = torch.tensor([0.5, 0.0, 0.5]).log().expand(10_000, 3)
    assert not (categorical(log_p) == 1).any()


@EXACT
@given(
    temperature=st.floats(0.05, 5),
    scale=st.floats(0, 30),
    K=st.integers(1, 12),
    seed=st.integers(0, 10_000),
)
def test_gumbel_softmax_is_that_of_torch(temperature, scale, K, seed):
    log_p = (scale * normal(6, 5, K, seed=seed)).log_softmax(-1)
    torch.manual_seed(seed)
    found = gumbel_softmax(log_p, temperature)
    torch.manual_seed(seed)
    expected = F.gumbel_softmax(log_p, temperature)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.sum(-1), torch.ones(6, 5))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_the_largest_weight_is_a_categorical_draw_at_every_temperature(temperature):
    torch.manual_seed(0)
    weights = gumbel_softmax(PROBABILITIES.log().expand(DRAWS, 5), temperature)
    assert_frequencies(weights.argmax(-1), PROBABILITIES)


@pytest.mark.parametrize(
    ("temperature", "top", "energy"),
    [(1.0, 0.28, 0.15), (0.5, 0.63, 0.51), (0.25, 0.82, 0.75), (1 / 16, 0.96, 0.94)],
)
def test_soft_samples_of_256_equal_codes_are_far_from_codes_unless_cold(temperature, top, energy):
    torch.manual_seed(0)
    weights = gumbel_softmax(torch.zeros(5000, 256), temperature)
    assert weights.max(-1).values.mean().item() == pytest.approx(top, abs=0.012)
    assert weights.square().sum(-1).mean().item() == pytest.approx(energy, abs=0.012)


@pytest.mark.parametrize("draw", [soft_vectors, straight_through_vectors])
def test_codes_of_relaxed_draws_have_their_probabilities(draw):
    torch.manual_seed(0)
    _, codes = draw(PROBABILITIES.log().expand(DRAWS, 5), normal(5, 2), 0.7)
    assert codes.dtype == torch.int64
    assert_frequencies(codes, PROBABILITIES)


@EXACT
@given(temperature=st.floats(0.05, 5), size=st.floats(0.01, 1000), seed=st.integers(0, 10_000))
def test_straight_through_vectors_are_exactly_codes(temperature, size, seed):
    means = size * normal(9, 4, seed=seed)
    log_p = normal(3, 5, 9, seed=seed + 1).log_softmax(-1)
    vectors, codes = straight_through_vectors(log_p, means, temperature)
    assert vectors.shape == (3, 5, 4) and codes.shape == (3, 5)
    assert torch.equal(vectors, means[codes])


@pytest.mark.parametrize(
    ("draw", "hard"), [(soft_vectors, False), (straight_through_vectors, True)]
)
@EXACT
@given(temperature=st.floats(0.2, 3), seed=st.integers(0, 10_000))
def test_values_and_gradients_are_those_of_weights_times_codebook(draw, hard, temperature, seed):
    """The textbook's one-hot + soft - soft.detach(), as torch computes it, times the codebook."""
    logits = normal(4, 3, 6, seed=seed).requires_grad_()
    means = normal(6, 5, seed=seed + 1).requires_grad_()
    slope = normal(4, 3, 5, seed=seed + 2)

    torch.manual_seed(seed)
    vectors, codes = draw(logits.log_softmax(-1), means, temperature)
    found = torch.autograd.grad((vectors * slope).sum(), [logits, means])

    torch.manual_seed(seed)
    weights = F.gumbel_softmax(logits.log_softmax(-1), temperature, hard=hard)
    textbook = weights @ means
    expected = torch.autograd.grad((textbook * slope).sum(), [logits, means])

    assert torch.equal(codes, weights.argmax(-1))
    torch.testing.assert_close(vectors, textbook)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_codes_that_were_not_used_get_no_gradient():
    means = normal(50, 3).requires_grad_()
    vectors, codes = straight_through_vectors(normal(4, 50).log_softmax(-1), means, 1.0)
    (gradient,) = torch.autograd.grad(vectors.sum(), [means])
    used = torch.bincount(codes, minlength=50).float()
    assert torch.equal(gradient, used[:, None].expand(50, 3))


def test_temperature_may_be_a_tensor():
    log_p, means = normal(4, 5).log_softmax(-1), normal(5, 2)
    torch.manual_seed(0)
    expected, _ = soft_vectors(log_p, means, 0.5)
    torch.manual_seed(0)
    found, _ = soft_vectors(log_p, means, torch.tensor(0.5))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("temperature", [1e-37, 1e-39, 5e-324])
def test_the_coldest_temperatures_draw_the_likeliest_code(temperature):
    log_p = (5 * normal(500, 7)).log_softmax(-1)
    assert torch.equal(categorical(log_p, temperature), log_p.argmax(-1))
