"""KLs against torch.distributions, bounds against their definitions, free bits, units."""

import math

import numpy as np
import pytest
import torch
from helpers import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from rrvqlib.latents.divergences import categorical_kl, gaussian_kl
from rrvqlib.objectives.elbo import (
    ElboTerms,
    bits_per_dim,
    importance_weighted_bound,
    training_loss,
)

EXACT = settings(derandomize=True, deadline=None, max_examples=40)


def terms_of(kl_maps, log_likelihood=None, vq_loss=None):
    if log_likelihood is None:
        log_likelihood = torch.zeros(len(kl_maps[0]))
    return ElboTerms(log_likelihood, tuple(kl_maps), vq_loss=vq_loss)


@EXACT
@given(K=st.integers(1, 9), scale=st.floats(0, 30), seed=st.integers(0, 10_000))
def test_categorical_kl_is_that_of_torch_distributions(K, scale, seed):
    q = (scale * normal(3, 4, K, seed=seed)).log_softmax(-1)
    p = (scale * normal(3, 4, K, seed=seed + 1)).log_softmax(-1)
    found = categorical_kl(q, p)
    expected = kl_divergence(Categorical(logits=q), Categorical(logits=p))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found > -1e-5).all()


@EXACT
@given(seed=st.integers(0, 10_000))
def test_gaussian_kl_is_that_of_torch_distributions(seed):
    qm, qs, pm, ps = (normal(3, 4, 5, seed=seed + i) for i in range(4))
    expected = kl_divergence(
        Independent(Normal(qm, qs.exp()), 1), Independent(Normal(pm, ps.exp()), 1)
    )
    torch.testing.assert_close(gaussian_kl(qm, qs, pm, ps), expected, atol=1e-4, rtol=1e-4)


def test_posterior_equal_to_prior_costs_nothing_and_has_no_gradient():
    logits = normal(4, 6)
    q, p = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    kl = categorical_kl(q.log_softmax(-1), p.log_softmax(-1))
    assert kl.abs().max() < 1e-6
    for gradient in torch.autograd.grad(kl.sum(), [q, p]):
        assert gradient.abs().max() < 1e-6
    inputs = [normal(4, 3, seed=i).requires_grad_() for i in (0, 1, 0, 1)]
    kl = gaussian_kl(*inputs)
    assert (kl == 0).all()
    for gradient in torch.autograd.grad(kl.sum(), inputs):
        assert gradient.abs().max() < 1e-6


def test_kl_to_uniform_is_log_k_less_the_entropy():
    q = normal(5, 8).log_softmax(-1)
    uniform = torch.full((8,), -math.log(8))
    expected = math.log(8) - Categorical(logits=q).entropy()
    torch.testing.assert_close(categorical_kl(q, uniform), expected)
    one_hot = torch.tensor([0.0, -200.0, -200.0])
    assert categorical_kl(one_hot, torch.full((3,), -math.log(3))).item() == pytest.approx(
        math.log(3)
    )


def test_terms_sum_positions_and_keep_layers_apart():
    maps = [normal(2, 4, 4).abs(), normal(2, 2, 2, seed=1).abs()]
    log_likelihood, ratio = torch.tensor([-100.0, -90.0]), torch.tensor([-3.0, -4.0])
    terms = ElboTerms(log_likelihood, tuple(maps), ratio)
    expected = np.stack([m.numpy().sum((1, 2)) for m in maps], axis=1)
    np.testing.assert_allclose(terms.kl.numpy(), expected, rtol=1e-5)
    elbo = log_likelihood.numpy() - expected.sum(1)
    np.testing.assert_allclose(terms.elbo.numpy(), elbo, rtol=1e-5)
    assert terms.log_weight.tolist() == [-103.0, -94.0]


def test_bits_per_dim_of_a_uniform_code_is_eight():
    dims = 3 * 32 * 32
    assert bits_per_dim(-dims * math.log(256), dims) == pytest.approx(8)
    batch = bits_per_dim(torch.tensor([-dims * math.log(2), -dims * math.log(16)]), dims)
    assert batch.tolist() == pytest.approx([1, 4])


@EXACT
@given(weight=st.floats(0, 1), seed=st.integers(0, 10_000))
def test_loss_is_the_negative_elbo_with_the_kl_weighted(weight, seed):
    maps = [normal(5, 4, 4, seed=seed).abs(), normal(5, 2, 2, seed=seed + 1).abs()]
    log_likelihood, vq_loss = normal(5, seed=seed + 2), normal(5, seed=seed + 3).abs()
    terms = terms_of(maps, log_likelihood, vq_loss)
    expected = (-log_likelihood + weight * terms.kl.sum(1) + vq_loss).mean()
    torch.testing.assert_close(training_loss(terms, weight), expected)
    plain = training_loss(terms_of(maps, log_likelihood))
    torch.testing.assert_close(plain, -terms.elbo.mean())


def loss_and_gradients(maps, **options):
    maps = [m.clone().requires_grad_() for m in maps]
    loss = training_loss(terms_of(maps), **options)
    return loss.item(), torch.autograd.grad(loss, maps, allow_unused=True, materialize_grads=True)


def test_free_nats_of_a_layer():
    """Layer 1 has 8 nats per image, layer 2 has 2; 3 are free."""
    maps = [torch.full((2, 2, 2), 2.0), torch.full((2, 1, 1), 2.0)]
    loss, (first, second) = loss_and_gradients(maps, free_nats=3.0)
    assert loss == pytest.approx(8 + 3)
    assert torch.equal(first, torch.full((2, 2, 2), 0.5))  # as without free nats, batch of 2
    assert (second == 0).all()
    assert loss_and_gradients(maps)[0] == pytest.approx(10)


def test_free_nats_of_each_position():
    maps = [torch.tensor([[[0.5, 2.0], [5.0, 0.1]], [[0.5, 6.0], [1.0, 0.1]]])]  # batch of 2
    loss, (gradient,) = loss_and_gradients(maps, free_nats=1.0, free_nats_group="position")
    assert loss == pytest.approx(1 + 4 + 3 + 1)  # batch means 0.5, 4, 3, 0.1
    assert gradient[0].tolist() == [[0, 0.5], [0.5, 0]]
    assert torch.equal(gradient[0], gradient[1])


def test_free_nats_look_at_the_batch_mean_and_not_at_single_images():
    maps = [torch.tensor([[[0.0]], [[4.0]]])]
    loss, (gradient,) = loss_and_gradients(maps, free_nats=1.0)
    assert loss == pytest.approx(2)
    assert gradient.flatten().tolist() == [0.5, 0.5]


def test_free_nats_look_at_the_mean_over_all_processes():
    maps = [torch.full((2, 1, 1), 0.5)]
    loss, (gradient,) = loss_and_gradients(
        maps, free_nats=1.0, batch_mean=lambda local: (local + 3.5) / 2
    )
    assert loss == pytest.approx(0.5) and (gradient == 0.5).all()


@EXACT
@given(k=st.integers(1, 7), shift=st.sampled_from([0.0, -8000.0]), seed=st.integers(0, 10_000))
def test_bound_is_the_log_of_the_mean_weight(k, shift, seed):
    log_weights = normal(k, 3, seed=seed).double()
    found = importance_weighted_bound(log_weights + shift) - shift
    np.testing.assert_allclose(found, np.log(np.exp(log_weights.numpy()).mean(0)), atol=1e-9)


def test_bound_grows_with_the_number_of_samples_towards_the_log_evidence():
    """Weights with log w ~ N(-s^2/2, s^2) have mean 1, so that log p(x) = 0."""
    s = 1.5
    log_weights = s * normal(32, 20_000).double() - s**2 / 2
    bounds = [
        importance_weighted_bound(log_weights[:k]).mean().item() for k in (1, 2, 4, 8, 16, 32)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] == pytest.approx(-(s**2) / 2, abs=0.05)  # one sample: the ELBO
    assert -0.2 < bounds[-1] < 0


@pytest.mark.parametrize("group", ["layer", "position"])
def test_free_nats_ask_the_other_processes_once_for_all_layers(group):
    maps = [normal(3, 4, 4, seed=1).abs(), normal(3, 2, 2, seed=2).abs()]
    asked = []

    def noting(local):
        asked.append(local)
        return local

    options = {"free_nats": 0.8, "free_nats_group": group}
    loss, gradients = loss_and_gradients(maps, **options, batch_mean=noting)
    (local,) = asked
    assert local.shape == (2 if group == "layer" else 16 + 4,)
    means = [m.mean(0) for m in maps]
    by_hand = sum(
        (m if group == "position" else m.sum()).clamp(min=0.8).sum().item() for m in means
    )
    assert loss == pytest.approx(by_hand)
    assert loss_and_gradients(maps, **options)[0] == loss
    assert [g.shape for g in gradients] == [m.shape for m in maps]
