"""The three priors: their probabilities, sizes and gradients."""

import math

import numpy as np
import pytest
import torch
from helpers import PRIORS, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, MultivariateNormal

from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.divergences import categorical_kl
from rrvqlib.latents.priors import log_prior, parameters_per_variable

EXACT = settings(derandomize=True, deadline=None, max_examples=40)


def codebook_of(K, D, covariance="isotropic", seed=0):
    codebook = Codebook(K, D, covariance)
    with torch.no_grad():
        codebook.means.copy_(normal(K, D, seed=seed))
        if codebook.raw_log_variances is not None:
            shape = codebook.raw_log_variances.shape
            codebook.raw_log_variances.copy_(0.3 * normal(*shape, seed=seed + 1))
    return codebook


@pytest.mark.parametrize(("prior", "size"), [("embedding", 3), ("direct", 7), ("uniform", 0)])
def test_parameters_per_variable(prior, size):
    assert parameters_per_variable(prior, Codebook(7, 3)) == size


def test_uniform_gives_log_k_nats_to_every_code():
    found = log_prior("uniform", torch.empty(2, 4, 4, 0), Codebook(7, 3))
    assert found.shape == (2, 4, 4, 7) and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), -math.log(7), rtol=1e-6)


@EXACT
@given(scale=st.floats(0, 50), seed=st.integers(0, 10_000))
def test_direct_is_the_categorical_of_its_logits(scale, seed):
    logits = scale * normal(2, 4, 7, seed=seed)
    found = log_prior("direct", logits, Codebook(7, 3))
    torch.testing.assert_close(found, Categorical(logits=logits).logits, atol=1e-5, rtol=1e-5)


@EXACT
@given(seed=st.integers(0, 10_000))
def test_embedding_is_bayes_rule_in_the_codebook_of_the_posterior(seed):
    codebook, e = codebook_of(7, 3, seed=seed), normal(2, 4, 3, seed=seed + 9)
    s = codebook.log_variances.detach().exp()
    densities = MultivariateNormal(codebook.means.detach(), s[:, None, None] * torch.eye(3))
    expected = densities.log_prob(e[..., None, :]).log_softmax(-1)
    found = log_prior("embedding", e, codebook)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prior", PRIORS)
def test_priors_stay_in_float32_under_autocast(prior):
    codebook = codebook_of(7, 3)
    size = parameters_per_variable(prior, codebook)
    parameters = (5 * normal(4, size)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = log_prior(prior, parameters, codebook)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, log_prior(prior, parameters.float(), codebook))
    np.testing.assert_allclose(found.exp().sum(-1).detach().numpy(), 1, atol=1e-5)


@EXACT
@given(size=st.sampled_from([1.0, 10.0, 1000.0]), seed=st.integers(0, 10_000))
def test_with_one_variance_the_gradient_of_the_kl_is_bounded_by_the_codebook(size, seed):
    """It is the mean code under p less the mean code under q, over the variance."""
    codebook = codebook_of(6, 4, seed=seed)
    with torch.no_grad():
        codebook.raw_log_variances.fill_(math.log(2.0))
    q = normal(6, seed=seed + 1).softmax(0)
    e = size * torch.nn.functional.normalize(normal(4, seed=seed + 2), dim=0)
    e.requires_grad_()
    log_p = log_prior("embedding", e, codebook)
    (gradient,) = torch.autograd.grad(categorical_kl(q.log(), log_p), [e])
    means = codebook.means.detach()
    torch.testing.assert_close(gradient, (log_p.exp() - q) @ means / 2, atol=1e-4, rtol=1e-3)
    assert gradient.norm() <= torch.cdist(means, means).max() / 2 + 1e-4


def test_with_unequal_variances_the_gradient_grows_with_the_embedding():
    codebook = codebook_of(6, 4)
    q = torch.full((6,), 1 / 6)

    def gradient(size):
        e = torch.full((4,), size / 2, requires_grad=True)
        kl = categorical_kl(q.log(), log_prior("embedding", e, codebook))
        return torch.autograd.grad(kl, [e])[0].norm().item()

    assert gradient(1000.0) == pytest.approx(10 * gradient(100.0), rel=0.1)
    assert gradient(1000.0) > 100
